"""The projector on a real server: stored events, dead letters, and outages."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from consumers.dead_letters import DeadLetters
from consumers.projector.crash_records import CrashRecords
from consumers.projector.projector import Projector
from noetl_events import EventsRejected, ExecutorEvent, SinkUnavailable, encode
from noetl_events.ids import derived_id
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.consume.puller import Puller
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sinks.memory import MemorySink
from noetl_events.testing import FaultySink, eventually, make_event, make_events
from tests.projector.bench import QUICK, Bench, Blocking, ids

if TYPE_CHECKING:
    from collections.abc import Sequence


async def test_all_arrive_in_order(bench: Bench) -> None:
    """Messages published before and after the start are stored in the order of the stream, and acknowledged."""
    sink = MemorySink()
    await bench.publish(make_events(300))
    async with bench.projecting(sink):
        await bench.publish(make_events(300, start=301))
        await eventually(lambda: len(sink.events) == 600)

    assert ids(sink) == list(range(1, 601))
    await eventually(lambda: bench.unsettled_is(0))


async def test_outage_longer_than_the_ack_wait_loses_and_reorders_nothing(bench: Bench) -> None:
    """The batch is retried during an outage: no dead letter, no redelivery, no change of order."""
    memory = MemorySink()
    away = [SinkUnavailable("maintenance", retry_after=0.1)] * 25
    sink = FaultySink(memory, away)
    await bench.publish(make_events(100))
    async with bench.projecting(sink, ack_wait=1.0) as projector:
        await bench.publish(make_events(100, start=101))
        await eventually(lambda: len(memory.events) == 200)
        assert projector.progress.received == 200, "held messages were delivered again"
        assert projector.progress.held_seconds > 2

    assert ids(memory) == list(range(1, 201))
    assert await bench.dead_letters() == []
    await eventually(lambda: bench.unsettled_is(0))


async def test_answer_lost_after_the_write_stores_nothing_twice(bench: Bench) -> None:
    """A sink that stored the batch and failed to answer gets the same batch again."""
    memory = MemorySink()
    await bench.publish(make_events(50))
    async with bench.projecting(FaultySink(memory, [SinkUnavailable("answer lost")], after=True)):
        await eventually(lambda: len(memory.events) == 50)

    assert ids(memory) == list(range(1, 51))


async def test_malformed_is_buried_whole_and_its_neighbours_pass(bench: Bench) -> None:
    """A malformed message among 1,000 leaves 999 stored, and one dead letter with its bytes, reason and origin."""
    sink = MemorySink()
    await bench.publish([*make_events(500), b"\xff{not json\x00", *make_events(499, start=501)])
    async with bench.projecting(sink) as projector:
        await eventually(lambda: projector.progress.stored + projector.progress.dead_letters == 1_000)
    [letter] = await bench.dead_letters()

    assert ids(sink) == list(range(1, 1_000))
    assert letter.data == b"\xff{not json\x00"
    assert letter.headers["Noetl-Kind"] == "malformed"
    assert letter.headers["Noetl-Reason"].startswith("body: ")
    assert letter.headers["Noetl-Subject"] == f"{bench.stream.name}.x"
    assert (letter.headers["Noetl-Stream"], letter.headers["Noetl-Sequence"]) == (bench.stream.name, "501")
    assert letter.headers["Noetl-Time"].endswith("Z")
    await eventually(lambda: bench.unsettled_is(0))


class Refusing(MemorySink):
    """A sink that rejects some ids for good."""

    def __init__(self, refused: set[int]) -> None:
        super().__init__()
        self.refused = refused

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store the events that are not rejected."""
        await super().emit_batch([event for event in events if event.event_id not in self.refused])
        if reasons := {place: "no" for place, event in enumerate(events) if event.event_id in self.refused}:
            raise EventsRejected(reasons)


async def test_rejected_is_buried_and_its_neighbours_pass(bench: Bench) -> None:
    """Exactly the events that a sink rejects become dead letters, with their bodies."""
    sink = Refusing({3, 50})
    await bench.publish(make_events(60))
    async with bench.projecting(sink) as projector:
        await eventually(lambda: projector.progress.dead_letters == 2 and projector.progress.stored == 58)
    letters = await bench.dead_letters()

    assert ids(sink) == [number for number in range(1, 61) if number not in (3, 50)]
    assert [letter.data for letter in letters] == [encode(make_event(3)), encode(make_event(50))]
    assert {letter.headers["Noetl-Reason"] for letter in letters} == {"no"}


async def test_nothing_is_acknowledged_before_its_dead_letter_is_stored(bench: Bench) -> None:
    """Without a dead-letter stream the message stays unacknowledged; once there is one it is dead-lettered, once."""
    js = await jetstream(bench.connection)
    await js.delete_stream(bench.dead.name)
    await bench.publish([b"malformed"])
    async with bench.projecting(MemorySink()) as projector:
        await eventually(lambda: projector.in_flight == 1)
        await asyncio.sleep(QUICK.maximum * 5)
        assert await bench.unsettled() == 1
        await ensure_stream(bench.connection, bench.dead)
        await eventually(lambda: projector.progress.dead_letters == 1)

    assert len(await bench.dead_letters()) == 1


async def test_death_between_write_and_ack_redelivers(bench: Bench) -> None:
    """A projector that dies between write and ack leaves every event to the next one, stored once."""
    sink = Blocking()
    await bench.publish(make_events(20))
    letters = DeadLetters(bench.connection, prefix=bench.dead.name)
    consumer = structs.replace(bench.consumer, ack_wait=0.5)
    first = asyncio.create_task(
        Projector(Puller(bench.connection, consumer), sink, letters, CrashRecords(bench.connection)).run()
    )
    await sink.stored.wait()
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    sink.go.set()
    async with bench.projecting(sink, ack_wait=0.5):
        await eventually(lambda: bench.unsettled_is(0))

    assert ids(sink) == list(range(1, 21))


async def test_stop_finishes_what_is_in_hand(bench: Bench) -> None:
    """A projector stopped during a write ends with no message unacknowledged or delivered twice."""
    sink = Blocking()
    await bench.publish(make_events(200))
    async with bench.projecting(sink) as projector:
        await sink.stored.wait()
        stopping = asyncio.create_task(projector.stop())
        sink.go.set()
        await stopping
    stored = len(sink.events)

    # The server processes acknowledgements in its own queue, after it has answered the flush.
    await eventually(lambda: bench.unsettled_is(200 - stored))
    assert await bench.redelivered() == 0


async def test_stopped_while_the_stream_is_written_to(bench: Bench) -> None:
    """Messages that the server sent before it knew of the projector's stop are stored, and not redelivered."""
    publishing = asyncio.create_task(bench.publish(make_events(20_000)))
    names = [f"projector{number}" for number in range(20)]

    async def start_and_stop(name: str) -> None:
        sink = MemorySink()
        async with bench.projecting(sink, name=name):
            await eventually(lambda: len(sink.events) >= 20)
        await eventually(lambda: bench.unacknowledged_is(0, name))

    await asyncio.gather(*(start_and_stop(name) for name in names))
    publishing.cancel()
    with suppress(asyncio.CancelledError):
        await publishing


async def test_what_one_holds_comes_to_no_other(bench: Bench) -> None:
    """A batch retried for longer than the ack wait is not delivered to another projector of the consumer."""
    memory, other = MemorySink(), MemorySink()
    sink = FaultySink(memory, [SinkUnavailable("maintenance", retry_after=0.35)] * 20)
    await bench.publish(make_events(10))
    async with bench.projecting(sink, ack_wait=3.0) as projector:
        await eventually(lambda: projector.progress.received == 10)
        async with bench.projecting(other, ack_wait=3.0):
            await eventually(lambda: len(memory.events) == 10)

    assert projector.progress.held_seconds > 6.0
    assert other.events == []


async def test_slow_write_comes_to_no_other(bench: Bench) -> None:
    """A write longer than the ack wait keeps its messages by ack-progress heartbeats."""
    sink, other = Blocking(), MemorySink()
    await bench.publish(make_events(10))
    async with bench.projecting(sink, ack_wait=3.0) as projector:
        await sink.stored.wait()
        async with bench.projecting(other, ack_wait=3.0):
            await asyncio.sleep(5.0)
            sink.go.set()
            await eventually(lambda: projector.progress.stored == 10)

    assert projector.progress.received == 10
    assert other.events == []


async def test_event_without_id_gets_one_from_its_message(bench: Bench) -> None:
    """The derived id comes from the stream's time and sequence, so a redelivery gets the same id."""
    sink = MemorySink()
    await bench.publish([make_event(None)])
    async with bench.projecting(sink):
        await eventually(lambda: len(sink.events) == 1)
    message = await (await jetstream(bench.connection)).get_msg(bench.stream.name, 1)
    assert message.time is not None

    assert ids(sink) == [derived_id(int(message.time.timestamp() * 1000), 1)]


async def test_bug_of_a_sink_stops_the_projector(bench: Bench) -> None:
    """A sink that raises at every event ends the run, and no message of the batch is acknowledged."""
    await bench.publish(make_events(5))
    sink = FaultySink(MemorySink(), [KeyError("bug")] * 100)
    puller, letters = Puller(bench.connection, bench.consumer), DeadLetters(bench.connection)
    projector = Projector(puller, sink, letters, CrashRecords(bench.connection))
    with pytest.raises(KeyError, match="bug"):
        await projector.run()

    assert await bench.unsettled() == 5
