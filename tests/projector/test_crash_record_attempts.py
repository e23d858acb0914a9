"""Crash records around a write: outages, errors and stops leave none, and an event alone is written alone."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from nats.js.errors import NotFoundError

from consumers.projector.crash_records import CrashRecords
from noetl_events import ExecutorEvent, SinkUnavailable
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.declarations import TRIALS_STREAM
from noetl_events.sinks.memory import MemorySink
from noetl_events.testing import FaultySink, eventually, make_events
from tests.projector.bench import Bench, ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consumers.projector.crash_records import Group
    from noetl_events.jetstream.connection import Connection


class Waiting(MemorySink):
    """A sink that waits for the test before it stores."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Wait, then store."""
        self.asked.set()
        await self.go.wait()
        await super().emit_batch(events)


async def cancel_during_a_write(bench: Bench) -> None:
    """Run a projector until its sink gets a batch, and cancel it."""
    hanging = Waiting()
    running = asyncio.create_task(bench.projector(hanging, ack_wait=0.5).run())
    await hanging.asked.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def redeliver(bench: Bench, count: int) -> None:
    """Publish *count* events, and have them delivered to a client that dies."""
    await bench.publish(make_events(count))
    await cancel_during_a_write(bench)


async def open_records(bench: Bench) -> list[bytes]:
    """Return the open crash records for the bench's stream."""
    js = await jetstream(bench.connection)
    subject = f"noetl.trials.{bench.stream.name}.projector.0"
    with suppress(NotFoundError):
        return [note] if (note := (await js.get_last_msg(TRIALS_STREAM, subject)).data or b"") else []
    return []


async def test_outages_are_no_deaths(bench: Bench) -> None:
    """An event tested during repeated outages is stored in the end, and no crash record stays."""
    memory = MemorySink()
    await redeliver(bench, 1)
    sink = FaultySink(memory, [SinkUnavailable("away")] * 8)
    async with bench.projecting(sink, ack_wait=0.5):
        await eventually(lambda: ids(memory) == [1])

    assert sink.calls == 9
    assert await bench.dead_letters() == []
    assert await open_records(bench) == []


async def test_outage_leaves_no_record(bench: Bench) -> None:
    """An outage tests no event: a projector killed then leaves no crash record."""
    await redeliver(bench, 1)
    away = FaultySink(MemorySink(), [SinkUnavailable("away", retry_after=60)])
    projector = bench.projector(away, ack_wait=0.5)
    running = asyncio.create_task(projector.run())
    await eventually(lambda: projector.progress.holding == "sink")

    assert await open_records(bench) == []
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_error_of_the_sink_leaves_no_record(bench: Bench) -> None:
    """An error that ends the projector is no death of the process: it leaves no crash record."""
    await redeliver(bench, 1)
    broken = FaultySink(MemorySink(), [KeyError("bug")] * 100)
    with pytest.raises(KeyError, match="bug"):
        await bench.projector(broken, ack_wait=0.5).run()

    assert await open_records(bench) == []


async def test_stop_during_a_write_is_no_death(bench: Bench) -> None:
    """Cancelling a projector while its destination hangs leaves no crash record: three times dead-letter nothing."""
    await redeliver(bench, 1)
    for _ in range(3):
        await cancel_during_a_write(bench)
        assert await open_records(bench) == []
    sink = MemorySink()
    async with bench.projecting(sink, ack_wait=0.5):
        await eventually(lambda: ids(sink) == [1])

    assert await bench.dead_letters() == []


class Slow(CrashRecords):
    """Crash records that are stored with a delayed answer."""

    def __init__(self, connection: Connection, slow: str) -> None:
        super().__init__(connection)
        self._slow = slow
        self.stored = asyncio.Event()

    async def record(self, group: Group) -> None:
        """Store the crash record."""
        await super().record(group)
        await self._linger("record")

    async def clear(self, group: Group) -> None:
        """Signal the test just before the crash record is cleared."""
        await self._linger("clear")
        await super().clear(group)

    async def _linger(self, where: str) -> None:
        if where == self._slow:
            self.stored.set()
            await asyncio.Event().wait()


@pytest.mark.parametrize("where", ["record", "clear"])
async def test_stop_while_the_record_is_stored_is_no_death(bench: Bench, where: str) -> None:
    """A projector cancelled while it stores or clears a crash record leaves no crash record."""
    await redeliver(bench, 1)
    trials = Slow(bench.connection, where)
    running = asyncio.create_task(bench.projector(MemorySink(), crash_records=trials, ack_wait=0.5).run())
    await trials.stored.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running

    assert await open_records(bench) == []


async def test_suspect_is_written_while_nothing_else_is_written(bench: Bench) -> None:
    """
    While one event is tested alone, no other projector of the process writes.

    A crash can then be attributed; otherwise the crash of another projector would count against the event.
    """
    await redeliver(bench, 1)
    trials = CrashRecords(bench.connection)
    tried, neighbour = Waiting(), MemorySink()
    async with bench.projecting(tried, crash_records=trials, ack_wait=0.5):
        await tried.asked.wait()
        async with bench.projecting(neighbour, crash_records=trials, name="neighbour") as other:
            await eventually(lambda: other.in_flight == 1)
            assert await open_records(bench) != []
            assert ids(neighbour) == []
            tried.go.set()
            await eventually(lambda: ids(neighbour) == [1] == ids(tried))
