"""`durable="fsync"`: batches stored completely or not at all, on real servers and on a scripted one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.publish import batches
from noetl_events.jetstream.publish.message import Outgoing
from noetl_events.jetstream.publish.publisher import Publisher
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import make_event, make_events
from noetl_events.testing.nats_server import NatsServer
from tests.faults.load import change_stream, require_exactly_once
from tests.jetstream.scripted_stream import Received, ScriptedStream, error, stores

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
def syncing_server(tmp_path: Path) -> Iterator[NatsServer]:
    """Return a server that calls fsync before it acknowledges."""
    with NatsServer(store_dir=tmp_path, config="jetstream { sync_interval: always }") as server:
        yield server


@pytest.fixture
async def syncing(syncing_server: NatsServer) -> AsyncIterator[Connection]:
    """Connect to that server, with an empty stream."""
    async with Connection(ConnectOptions(servers=syncing_server.url)) as connection:
        await ensure_stream(connection, StreamDeclaration())
        yield connection


async def test_batch_is_atomic(
    syncing_server: NatsServer, syncing: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch is stored whole by one commit, every event once, in order."""
    # A busy disk may need longer for an answer than a publisher waits before it sends again.
    monkeypatch.setattr(batches, "_ATOMIC_SILENCE", 180.0)
    sink = NatsSink(syncing, durable="fsync", timeout=180.0)
    await sink.emit_batch(make_events(1_500))
    message = await (await jetstream(syncing)).get_msg("noetl_events", 1_500)
    await sink.aclose()

    assert sink.mode == "atomic"
    assert (sink.counts.stored, sink.counts.sent_again) == (1_500, 0)
    assert message.headers is not None
    assert "Nats-Batch-Commit" in message.headers
    await require_exactly_once(syncing_server.url, list(range(1, 1_501)))


async def test_duplicate_in_a_batch_holds_nobody_up(syncing: Connection) -> None:
    """A batch refused for one stored id (10201) is stored without that message, and stays atomic."""
    first, second = NatsSink(syncing), NatsSink(syncing, durable="fsync")
    await first.emit(make_event(50))
    await second.emit_batch(make_events(100))
    await second.emit_batch(make_events(100, start=101))
    assert second.mode == "atomic"
    assert second.counts.sent_again == 100
    for sink in (first, second):
        await sink.aclose()

    js = await jetstream(syncing)
    assert (await js.stream_info("noetl_events")).state.messages == 200


async def test_stream_without_atomic_batches_gets_windows(syncing: Connection) -> None:
    """A stream without atomic batches gets plain publishes from then on, and the fallback is counted."""
    await change_stream(syncing, lambda config: config.evolve(allow_atomic=False))
    sink = NatsSink(syncing, durable="fsync")
    await sink.emit_batch(make_events(100))
    await sink.emit_batch(make_events(100, start=101))
    await sink.aclose()

    assert (sink.mode, sink.counts.fell_back, sink.counts.stored) == ("plain", 1, 200)


async def test_event_too_large_with_the_headers_of_a_batch(syncing: Connection) -> None:
    """A message that fits the server's limit only outside of a batch is published by itself."""
    limit = (await syncing.client()).max_payload
    publisher = Publisher(syncing, durable="fsync")
    empty = Outgoing("noetl.events.x", b"1", b"", 1).size
    await publisher.publish([Outgoing("noetl.events.x", b"1", b"x" * (limit - empty), 1), *small(range(2, 5))])
    await publisher.aclose()

    assert publisher.counts.stored == 4
    assert publisher.mode == "atomic"


def small(ids: range) -> list[Outgoing]:
    """Return small messages."""
    return [Outgoing("noetl.events.x", b"%d" % event_id, b"{}", 1) for event_id in ids]


async def test_batch_in_process_is_asked_for_one_by_one(connection: Connection, scripted: ScriptedStream) -> None:
    """A batch refused for an id in process (10158) is retried by plain publish until every outcome is known."""

    def answer(received: Received) -> dict[str, Any] | None:
        busy = received.atomic or len(scripted.received) == 4
        return error(10158, "message ID is in process", 409) if busy else stores(received)

    scripted.answer = answer
    publisher = Publisher(connection, stream="S", durable="fsync")
    await publisher.publish(scripted.outgoing([1, 2, 3]))
    await publisher.aclose()

    assert scripted.log == "1:atomic 1 2:atomic 2 3:atomic 3 1:plain 1:plain 2:plain 3:plain"


def test_other_words_are_refused() -> None:
    """An invalid durability is refused with its value and the two valid ones."""
    with pytest.raises(ValueError, match="durable: 'safe' is neither 'stored' nor 'fsync'"):
        NatsSink.from_url("nats://127.0.0.1?durable=safe")
