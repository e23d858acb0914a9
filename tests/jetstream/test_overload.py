"""A stream with a full queue (10167): dropped messages are sent again, with back-off."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.publish.publisher import Publisher
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import make_event
from noetl_events.testing.nats_server import NatsServer
from tests.faults.load import require_exactly_once
from tests.jetstream.scripted_stream import error, stores

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.jetstream.scripted_stream import Received, ScriptedStream

OVERLOADED: Final = error(10167, "too many requests", 429)


class Dropping:
    """A stream that drops the third message of a fast batch, and the first later message of each other form."""

    def __init__(self) -> None:
        self.stored: set[int] = set()
        self.dropped: set[str] = set()

    def __call__(self, received: Received) -> dict[str, Any] | None:
        """Answer one message."""
        if received.is_fast:
            return self._take_fast(received)
        form = "atomic" if received.atomic else "plain"
        if received.id > 2 and form not in self.dropped:
            self.dropped.add(form)
            return OVERLOADED
        if received.atomic:
            return {"stream": "S", "seq": received.id, "batch": "b", "count": received.atomic}
        answer = {"stream": "S", "seq": received.id, "duplicate": received.id in self.stored}
        self.stored.add(received.id)
        return answer

    def _take_fast(self, received: Received) -> dict[str, Any] | None:
        if received.seq < 3:
            self.stored.add(received.id)
            return None
        return OVERLOADED


async def test_messages_dropped_by_a_full_queue_are_sent_again(publisher: Publisher, scripted: ScriptedStream) -> None:
    """Messages before the dropped one are asked for in order; those after it are sent as a batch until stored."""
    scripted.answer = Dropping()
    await publisher.publish(scripted.outgoing(range(1, 7)))
    plain = [received.id for received in scripted.received if not received.is_fast and not received.atomic]
    atomic = [received.id for received in scripted.received if received.atomic]

    assert plain == [1, 2, 3, 3]
    assert atomic == [4, 5, 6] * 2
    assert publisher.counts.stored == 6


async def test_atomic_batch_that_was_dropped_goes_again_whole(connection: Connection, scripted: ScriptedStream) -> None:
    """A dropped atomic batch is sent again as a batch, and none of its messages alone."""
    scripted.answer = lambda received: (
        OVERLOADED
        if scripted.sequence < 3
        else {"stream": "S", "seq": received.id, "batch": "b", "count": received.atomic}
    )
    publisher = Publisher(connection, stream="S", durable="fsync")
    await publisher.publish(scripted.outgoing([1, 2]))
    await publisher.aclose()

    assert scripted.log == "1:atomic 1 2:atomic 2 1:atomic 1 2:atomic 2"


async def test_batches_are_shorter_while_the_stream_is_overloaded(
    publisher: Publisher, scripted: ScriptedStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a dropped message the batch size is halved, and grows with each stored batch."""
    monkeypatch.setattr("noetl_events.jetstream.publish.batches.LONGEST", 8)
    monkeypatch.setattr("noetl_events.jetstream.publish.batches.BURST", 1)
    scripted.answer = lambda received: OVERLOADED if scripted.sequence == 1 else stores(received)
    await publisher.publish(scripted.outgoing(range(1, 30)))
    ends = [received.count for received in scripted.received if received.is_fast and received.ends_batch]

    # The first batch may have been sent completely before the answer came.
    assert 4 in ends[:2]
    assert ends[ends.index(4) + 1] == 8


async def test_server_with_a_short_queue_stores_all_in_order(tmp_path: Path) -> None:
    """Publishers with more messages in flight than a stream's queue holds store all of them, each in order."""
    with NatsServer(store_dir=tmp_path, config="jetstream { max_buffered_msgs: 300 }") as server:
        async with Connection(ConnectOptions(servers=server.url)) as connection:
            await ensure_stream(connection, StreamDeclaration())
        sinks = [NatsSink.from_url(server.url) for _ in range(3)]
        batches = [
            [make_event(lane * 10_000 + number, execution_id=lane) for number in range(1_500)] for lane in (1, 2, 3)
        ]
        await asyncio.gather(*(sink.emit_batch(batch) for sink, batch in zip(sinks, batches, strict=True)))
        await asyncio.gather(*(sink.aclose() for sink in sinks))

        await require_exactly_once(
            server.url, [lane * 10_000 + number for lane in (1, 2, 3) for number in range(1_500)]
        )
