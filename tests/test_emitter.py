"""The emitter: the sink of one execution."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import pytest

from noetl_events import EventEmitter, EventsRejected, EventType, SinkUnavailable
from noetl_events.sinks.memory import MemorySink
from noetl_events.testing import FaultySink

if TYPE_CHECKING:
    from noetl_events import ExecutorEvent

NOW = datetime(2026, 5, 31, tzinfo=UTC)


async def test_stamps_and_emits() -> None:
    """An emitted event carries execution, time, id and worker."""
    sink = MemorySink()
    emitter = EventEmitter(7, sink, worker_id="worker-1", new_id=lambda: 42, now=lambda: NOW)
    emitted = await emitter.emit(EventType.CALL_DONE, "fetch", "COMPLETED", {"rows": 3}, meta={"attempts": 1})
    [stored] = sink.events

    assert (stored.execution_id, stored.event_id, stored.worker_id) == (7, 42, "worker-1")
    assert (stored.event_type, stored.step, stored.status, stored.created_at) == (
        "call.done",
        "fetch",
        "COMPLETED",
        NOW,
    )
    assert msgspec.json.decode(stored.context) == emitted.context == {"rows": 3}


async def test_ids_of_many_emitters_differ() -> None:
    """Emitters of one worker, or without a worker, never share an id."""
    sink = MemorySink()
    for worker_id in ("worker-1", "worker-1", None, None):
        emitter = EventEmitter(7, sink, worker_id=worker_id)
        for _ in range(50):
            await emitter.emit("step.enter", "s", "STARTED", {})

    assert len(sink.events) == 200


async def test_emit_tries_the_same_event_again() -> None:
    """A retry after a lost answer sends the same bytes: one step, one row."""
    memory = MemorySink()
    sink = FaultySink(memory, [SinkUnavailable("answer lost", 0.0), SinkUnavailable("away", 0.01)], after=True)
    emitted = await EventEmitter(7, sink).emit("step.enter", "s", "STARTED", {"n": 1})

    assert [stored.event_id for stored in memory.events] == [emitted.event_id]


async def test_emitted_bytes_do_not_change_while_it_waits() -> None:
    """The caller may change the value after emitting it: a retry sends the bytes of the first attempt."""
    context = {"rows": 1}

    class Changes(FaultySink):
        async def emit(self, event: ExecutorEvent) -> None:
            context["rows"] += 1
            await super().emit(event)

    memory = MemorySink()
    await EventEmitter(7, Changes(memory, [SinkUnavailable("away", 0.0)])).emit("step.enter", "s", "STARTED", context)

    assert bytes(memory.events[0].context) == b'{"rows":1}'


async def test_failure_carries_the_event() -> None:
    """An emit that fails raises with the event of its attempts; emitting that event again stores it once."""
    memory = MemorySink()
    sink = FaultySink(memory, [SinkUnavailable("answer lost")], after=True)
    emitter = EventEmitter(7, sink, patience=0)
    with pytest.raises(SinkUnavailable, match="answer lost") as failure:
        await emitter.emit("step.enter", "s", "STARTED", {})
    assert failure.value.event is not None
    await emitter.emit_again(failure.value.event)

    assert [stored.event_id for stored in memory.events] == [failure.value.event.event_id]


async def test_last_of_several_failures_carries_the_event() -> None:
    """The error of the last attempt carries the event and that attempt's message, whichever attempt it is."""
    failures = [SinkUnavailable("answer lost", 0.0), *[SinkUnavailable("away", 0.1)] * 20]
    sink = FaultySink(MemorySink(), failures)
    with pytest.raises(SinkUnavailable, match="away") as failure:
        await EventEmitter(7, sink, new_id=lambda: 42, patience=1.0).emit("step.enter", "s", "STARTED", {})
    assert failure.value.event is not None

    assert failure.value.event.event_id == 42


async def test_patience_is_bounded() -> None:
    """A sink that asks for an hour does not delay the caller for an hour."""
    sink = FaultySink(MemorySink(), [SinkUnavailable("away", 3600.0)] * 100)
    with pytest.raises(SinkUnavailable, match="away"):
        async with asyncio.timeout(180):
            await EventEmitter(7, sink, patience=0.1).emit("step.enter", "s", "STARTED", {})


async def test_rejection_reaches_the_caller_at_once() -> None:
    """A rejected event is not retried."""
    with pytest.raises(EventsRejected, match=r"events\[0\]: context: set is not a JSON type"):
        await EventEmitter(7, MemorySink()).emit("step.enter", "s", "STARTED", {1, 2})


async def test_stamped_event_can_be_emitted_again() -> None:
    """An event made by `stamp` keeps its id, so a retry stores it once."""
    memory = MemorySink()
    sink = FaultySink(memory, [SinkUnavailable("answer lost")], after=True)
    event = EventEmitter(7, sink).stamp("step.enter", "s", "STARTED", {})
    with pytest.raises(SinkUnavailable):
        await sink.emit(event)
    await sink.emit(event)

    assert [stored.event_id for stored in memory.events] == [event.event_id]
