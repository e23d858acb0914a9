"""A rebuild: the events in the sink, the report of the others, and the consumers it does not touch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from consumers import backfill
from consumers.backfill import Fault, Rebuild, Rebuilt
from consumers.dead_letters import DeadLetters
from consumers.projector.crash_records import CrashRecords
from consumers.projector.projector import Projector
from noetl_events import EventsRejected, SinkUnavailable, encode
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.consume.history import History, Span
from noetl_events.jetstream.consume.puller import Puller
from noetl_events.jetstream.declarations import ConsumerDeclaration
from noetl_events.sinks.memory import MemorySink
from noetl_events.testing import FaultySink, eventually, make_event, make_events
from tests.jetstream.past import publish

if TYPE_CHECKING:
    from noetl_events import EventSink
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration

BODIES = [
    encode(make_event(1, execution_id=5)),
    b"not an event",
    encode(make_event(None, execution_id=5)),
    encode(make_event(4, execution_id=6)),
    b'{"execution_id": 5}',
]


async def rebuild(connection: Connection, stream: str, sink: EventSink, **options: Any) -> Rebuilt:
    """Rebuild *sink* from the whole of *stream*."""
    async with History(connection, Span(stream=stream)) as history:
        return await Rebuild(history, sink, **options).run()


async def project(connection: Connection, stream: str, sink: MemorySink, dead: str, count: int) -> None:
    """Project *count* messages of *stream* into *sink*."""
    consumer = ConsumerDeclaration(name="live", stream=stream)
    letters = DeadLetters(connection, prefix=dead)
    projector = Projector(Puller(connection, consumer), sink, letters, CrashRecords(connection))
    while projector.progress.received < count:
        await projector.step()


async def test_same_events_as_projected(
    connection: Connection, stream: StreamDeclaration, dead_stream: StreamDeclaration
) -> None:
    """A rebuilt destination equals a projected one, with the same derived id for an event without id."""
    await publish(connection, f"{stream.name}.x", BODIES)
    projected, rebuilt = MemorySink(), MemorySink()
    await project(connection, stream.name, projected, dead_stream.name, len(BODIES))
    done = await rebuild(connection, stream.name, rebuilt)

    assert (done.stored, done.rejected, done.malformed, done.last_sequence) == (3, 0, 2, 5)
    assert rebuilt.events == projected.events
    assert rebuilt.events[1].event_id is not None


async def test_live_consumer_is_left_alone(
    connection: Connection, stream: StreamDeclaration, dead_stream: StreamDeclaration
) -> None:
    """All positions and counts of a durable stay as they were, and no event is dead-lettered again."""
    await publish(connection, f"{stream.name}.x", [encode(event) for event in make_events(30)] + BODIES)
    js = await jetstream(connection)
    await project(connection, stream.name, MemorySink(), dead_stream.name, 35)
    await js.publish(f"{stream.name}.x", encode(make_event(99)))
    await eventually(lambda: _has_one_in_hand(connection, stream.name))
    before = await js.consumer_info(stream.name, "live")
    buried = (await js.stream_info(dead_stream.name)).state.last_seq
    done = await rebuild(connection, stream.name, MemorySink())
    after = await js.consumer_info(stream.name, "live")

    assert (done.stored, done.malformed) == (34, 2)
    assert (after.ack_floor, after.delivered) == (before.ack_floor, before.delivered)
    assert (after.num_pending, after.num_ack_pending) == (before.num_pending, before.num_ack_pending)
    assert after.num_redelivered == before.num_redelivered
    assert (await js.stream_info(dead_stream.name)).state.last_seq == buried
    assert len(await js.consumers_info(stream.name)) == 1


async def _has_one_in_hand(connection: Connection, stream: str) -> bool:
    """Return true if the projector has all messages but the last acknowledged, and has that one in flight."""
    info = await (await jetstream(connection)).consumer_info(stream, "live")
    return info.num_ack_pending == 1 and info.ack_floor is not None and info.ack_floor.stream_seq == 35


async def test_twice_stores_once(connection: Connection, stream: StreamDeclaration) -> None:
    """A second run leaves the destination unchanged."""
    await publish(connection, f"{stream.name}.x", BODIES)
    sink = MemorySink()
    first = await rebuild(connection, stream.name, sink)
    events = sink.events
    second = await rebuild(connection, stream.name, sink)

    assert first == second
    assert sink.events == events


async def test_faults_are_named(connection: Connection, stream: StreamDeclaration) -> None:
    """Malformed messages and rejected events are listed by sequence with their reason; all others are stored."""
    await publish(connection, f"{stream.name}.x", BODIES)
    inner = MemorySink()
    done = await rebuild(connection, stream.name, FaultySink(inner, [EventsRejected({2: "too blue"})], after=True))

    assert (done.stored, done.rejected, done.malformed) == (2, 1, 2)
    assert done.faults == [
        Fault(sequence=2, kind="malformed", reason="body: invalid character (byte 4)"),
        Fault(sequence=5, kind="malformed", reason="event_type: missing, and required"),
        Fault(sequence=4, kind="rejected", reason="too blue"),
    ]


async def test_faults_kept_are_bounded(
    connection: Connection, stream: StreamDeclaration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fault is counted, and the first ones are listed."""
    monkeypatch.setattr(backfill, "MAX_FAULTS", 3)
    await publish(connection, f"{stream.name}.x", [b"x"] * 10)
    done = await rebuild(connection, stream.name, MemorySink())

    assert (done.malformed, [fault.sequence for fault in done.faults]) == (10, [1, 2, 3])


async def test_execution_is_chosen(connection: Connection, stream: StreamDeclaration) -> None:
    """Only the execution's events are stored, and only malformed messages that mention it are listed."""
    await publish(connection, f"{stream.name}.x", BODIES)
    sink = MemorySink()
    done = await rebuild(connection, stream.name, sink, execution=5)

    assert [event.execution_id for event in sink.events] == [5, 5]
    assert (done.stored, done.malformed, done.last_sequence) == (2, 1, 5)
    assert [fault.sequence for fault in done.faults] == [5]


async def test_waits_while_the_sink_is_away(connection: Connection, stream: StreamDeclaration) -> None:
    """An outage within the patience loses no event."""
    await publish(connection, f"{stream.name}.x", BODIES)
    inner = MemorySink()
    sink = FaultySink(inner, [SinkUnavailable("away", retry_after=0.01)] * 3)
    done = await rebuild(connection, stream.name, sink)

    assert (done.stored, len(inner.events)) == (3, 3)


async def test_gives_up_and_knows_how_far_it_came(connection: Connection, stream: StreamDeclaration) -> None:
    """After the patience the rebuild ends with the sink's reason, and can continue from its last position."""
    await publish(connection, f"{stream.name}.x", [encode(event) for event in make_events(30)])
    inner, batches = MemorySink(), list[int]()
    sink = FaultySink(inner, [None, None, *[SinkUnavailable("away", retry_after=0.01)] * 999])
    async with History(connection, Span(stream=stream.name)) as history:
        work = Rebuild(history, sink, batch_size=10, patience=0.1, on_batch=batches.append)
        with pytest.raises(SinkUnavailable, match="away"):
            await work.run()
    async with History(connection, Span(stream=stream.name, start=work.done.last_sequence + 1)) as history:
        rest = await Rebuild(history, inner).run()

    assert sum(batches) == work.done.last_sequence == work.done.stored
    assert rest.stored == 30 - work.done.stored
    assert [event.event_id for event in inner.events] == [*range(1, 31)]
