"""The publisher and refusals of a stream or server: the caller gets the reason, and other events are stored."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from noetl_events.envelope import encode
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sink import EventsRejected, SinkUnavailable
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing.events import make_event, make_events
from noetl_events.testing.nats_server import NatsServer
from tests.faults.load import STREAM, change_stream, read_all, require_exactly_once

if TYPE_CHECKING:
    from pathlib import Path

    from noetl_events.envelope import ExecutorEvent


async def test_full_stream_is_told_in_its_words(own_server: NatsServer, own_connection: Connection) -> None:
    """A full stream that discards new events ends the call at once; with room again the same events are stored."""
    await change_stream(own_connection, lambda config: config.evolve(max_msgs=5, discard="new"))
    sink = NatsSink(own_connection)
    with pytest.raises(SinkUnavailable, match="maximum messages exceeded"):
        await sink.emit_batch(make_events(10))
    await change_stream(own_connection, lambda config: config.evolve(max_msgs=-1))
    await sink.emit_batch(make_events(10))
    await sink.aclose()

    await require_exactly_once(own_server.url, list(range(1, 11)))


@pytest.mark.parametrize("count", [pytest.param(1, id="one event"), pytest.param(10, id="batch")])
async def test_missing_stream_is_named(own_server: NatsServer, count: int) -> None:
    """Without a stream for the subject the reason names the remedy; once the stream exists the same sink works."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        sink = NatsSink(connection, timeout=20.0)
        with pytest.raises(SinkUnavailable, match=r"no stream takes noetl\.events\.command\.completed"):
            await sink.emit_batch(make_events(count))
        await ensure_stream(connection, STREAM)
        await sink.emit_batch(make_events(count))
        await sink.aclose()

    await require_exactly_once(own_server.url, list(range(1, count + 1)))


def users(publish: str, subscribe: str) -> str:
    """Return the configuration of a server with an owner, and a worker with these permissions."""
    return f"""
        authorization {{ users: [
            {{ user: owner, password: pw }}
            {{ user: worker, password: pw, permissions: {{ publish: {publish}, subscribe: {subscribe} }} }}
        ] }}
    """


@pytest.mark.parametrize(
    ("publish", "subscribe", "match"),
    [
        pytest.param('["other.>"]', '["_INBOX.>"]', 'for publish to "noetl.events', id="publish"),
        pytest.param('["noetl.>"]', '["other.>"]', 'for subscription to "_inbox', id="replies"),
    ],
)
@pytest.mark.parametrize("count", [pytest.param(1, id="one event"), pytest.param(10, id="batch")])
async def test_denied_permission_is_named(tmp_path: Path, publish: str, subscribe: str, match: str, count: int) -> None:
    """An account without permission to publish, or to receive the reply, gets that reason instead of a timeout."""
    with NatsServer(store_dir=tmp_path, config=users(publish, subscribe)) as server:
        await make_stream_as_owner(server)
        async with Connection(ConnectOptions(servers=server.url, user="worker", password="pw")) as connection:
            sink = NatsSink(connection, timeout=120.0)
            async with asyncio.timeout(60):
                with pytest.raises(SinkUnavailable, match=f"(?i){match}"):
                    await sink.emit_batch(make_events(count))
            await sink.aclose()


async def test_denied_subject_does_not_stop_the_others(tmp_path: Path) -> None:
    """Events to a denied subject fail by themselves; those beside them in the batch are stored."""
    with NatsServer(store_dir=tmp_path, config=users('["noetl.events.call.>"]', '["_INBOX.>"]')) as server:
        await make_stream_as_owner(server)
        async with Connection(ConnectOptions(servers=server.url, user="worker", password="pw")) as connection:
            sink = NatsSink(connection)
            events = [make_event(1, event_type="call.done"), make_event(2, event_type="x"), *make_calls(3, 10)]
            results = await asyncio.gather(*(sink.emit(event) for event in events), return_exceptions=True)
            await sink.aclose()

        assert [type(result) for result in results] == [type(None), SinkUnavailable, *[type(None)] * 7]
        assert 'for publish to "noetl.events.x"' in str(results[1]).lower()
        await require_exactly_once(server.url.replace("//", "//owner:pw@"), [1, *range(3, 10)])


def make_calls(start: int, stop: int) -> list[ExecutorEvent]:
    """Return events of the only type that the worker may publish."""
    return [make_event(number, event_type="call.done") for number in range(start, stop)]


async def make_stream_as_owner(server: NatsServer) -> None:
    """Create the stream with the owner's account."""
    async with Connection(ConnectOptions(servers=server.url, user="owner", password="pw")) as owner:
        await ensure_stream(owner, STREAM)


async def test_headers_count_for_the_size(own_server: NatsServer, own_connection: Connection) -> None:
    """An event that exceeds the server's limit only with its headers is rejected, and not sent."""
    client = await own_connection.client()
    empty = len(encode(make_event(2, context="")))
    fits = make_event(2, context="x" * (client.max_payload - empty))
    sink = NatsSink(own_connection)
    with pytest.raises(EventsRejected, match="max_payload"):
        await sink.emit_batch([make_event(1), fits, make_event(3)])
    head = len("NATS/1.0\r\nNats-Msg-Id: 4-0123456789abcdef\r\n\r\n")
    largest = make_event(4, context="x" * (client.max_payload - empty - head))
    await sink.emit(largest)
    await sink.aclose()

    assert [event.event_id for event in await read_all(own_server.url, STREAM.name)] == [1, 3, 4]
    assert await own_connection.client() is client


async def test_message_too_large_for_the_stream_is_rejected(own_server: NatsServer, own_connection: Connection) -> None:
    """An event above the stream's limit is rejected by its index, and its neighbours are stored."""
    await change_stream(own_connection, lambda config: config.evolve(max_msg_size=1000))
    sink = NatsSink(own_connection)
    with pytest.raises(EventsRejected) as rejection:
        await sink.emit_batch([make_event(1), make_event(2, context="x" * 1000), make_event(3)])
    await sink.aclose()

    assert [*rejection.value.reasons] == [1]
    await require_exactly_once(own_server.url, [1, 3])
