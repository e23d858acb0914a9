"""The emitter: an execution's view of a sink."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from noetl_events import EventEmitter, EventsRejected, EventType, SinkUnavailable
from noetl_events.sinks.memory import MemorySink
from noetl_events.testing import FaultySink

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
    """Emitters of one worker and of none never share an id."""
    sink = MemorySink()
    for worker_id in ("worker-1", "worker-1", None, None):
        emitter = EventEmitter(7, sink, worker_id=worker_id)
        for _ in range(50):
            await emitter.emit("step.enter", "s", "STARTED", {})

    assert len(sink.events) == 200


async def test_failures_reach_the_caller() -> None:
    """An emit that fails raises: a swallowed error would hang a run."""
    sink = FaultySink(MemorySink(), [SinkUnavailable("away")])
    emitter = EventEmitter(7, sink)
    with pytest.raises(SinkUnavailable, match="away"):
        await emitter.emit("step.enter", "s", "STARTED", {})
    with pytest.raises(EventsRejected, match="set is not a JSON type"):
        await emitter.emit("step.enter", "s", "STARTED", {1, 2})


async def test_stamped_event_can_be_emitted_again() -> None:
    """What `stamp` made keeps its id, so that trying again stores it once."""
    memory = MemorySink()
    sink = FaultySink(memory, [SinkUnavailable("answer lost")], after=True)
    event = EventEmitter(7, sink).stamp("step.enter", "s", "STARTED", {})
    with pytest.raises(SinkUnavailable):
        await sink.emit(event)
    await sink.emit(event)

    assert [stored.event_id for stored in memory.events] == [event.event_id]
