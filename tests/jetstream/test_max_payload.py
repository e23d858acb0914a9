"""The server's largest message, changed while clients are connected: only new connections are told."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.errors import MessageTooLarge, NatsUnavailable
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.storage import store
from noetl_events.jetstream.streams import ensure_stream, show_stream
from noetl_events.retry import Backoff
from noetl_events.sink import EventsRejected, SinkUnavailable
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_event
from noetl_events.testing.nats_server import NatsServer, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from noetl_events.envelope import ExecutorEvent

EVENTS = StreamDeclaration(name="noetl_events", subjects=("noetl.events.>",))
LARGE = "x" * 2_000
PLACES = ("server", "account")
MONITOR = free_port()


def config(place: str = "", limit: int = 1_000, *, more: str = "") -> str:
    """Return the configuration of a server with *limit* in *place*: the server's own or the account's."""
    line = f"max_payload: {limit}"
    account = f"limits {{ {line if place == 'account' else ''}\n{more} }}"
    users = "users: [ { user: a, password: a } ]"
    return f"""
        http: "127.0.0.1:{MONITOR}"
        accounts {{ A {{ jetstream: enabled, {account}, {users} }} }}
        no_auth_user: a
        {line if place == "server" else ""}
    """


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """Return a server with a configuration file that the test changes."""
    with NatsServer(store_dir=tmp_path, config=config()) as started:
        yield started


async def reload(server: NatsServer, text: str) -> None:
    """Reload *server* with another configuration."""
    await asyncio.to_thread(server.reload, text)


async def connections() -> int:
    """Return the number of connections that the server has accepted since its start."""

    def ask() -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{MONITOR}/varz", timeout=60) as answer:
            return int(json.load(answer)["total_connections"])

    return await asyncio.to_thread(ask)


async def is_stored(sink: NatsSink, event: ExecutorEvent) -> bool:
    """Emit *event* and return whether it is stored."""
    try:
        await sink.emit(event)
    except EventsRejected:
        return False
    return True


@pytest.mark.parametrize("place", PLACES)
async def test_limit_put_back(server: NatsServer, place: str) -> None:
    """An event above a lowered limit is refused, and stored by the same connection once the limit is back."""
    large = make_event(1, context=LARGE)
    async with Connection(ConnectOptions(servers=server.url)) as connection:
        await ensure_stream(connection, EVENTS)
        sink = NatsSink(connection)
        await reload(server, config(place))
        with pytest.raises(EventsRejected, match=r"the server takes 1000 \(max_payload\)"):
            await sink.emit(large)
        client = await connection.client()
        with pytest.raises(EventsRejected, match=r"the server takes 1000 \(max_payload\)"):
            await sink.emit_batch([make_event(2), large, make_event(3)])
        await reload(server, config())
        await eventually(lambda: is_stored(sink, large))

        assert await connection.client() is client
        assert (await show_stream(connection, EVENTS.name)).state.messages == 3
        await sink.aclose()


@pytest.mark.parametrize("place", PLACES)
async def test_limit_raised(server: NatsServer, place: str) -> None:
    """The first event above the limit of the start is stored after the limit was raised."""
    await reload(server, config(place))
    async with Connection(ConnectOptions(servers=server.url)) as connection:
        await ensure_stream(connection, EVENTS)
        sink = NatsSink(connection)
        await sink.emit(make_event(1))
        client = await connection.client()
        assert client.max_payload == 1_000
        await reload(server, config(place, 10_000))
        await sink.emit_batch([make_event(2, context=LARGE), make_event(3)])

        assert await connection.client() is client
        assert client.max_payload == 10_000
        await sink.aclose()


async def test_single_message_and_request(server: NatsServer) -> None:
    """A dead letter and a request to JetStream are also accepted again, by a connection made under the new limit."""
    await reload(server, config("account", 100))
    async with Connection(ConnectOptions(servers=server.url)) as connection:
        with pytest.raises(NatsUnavailable, match="maximum payload exceeded"):
            await ensure_stream(connection, EVENTS)
        client = await connection.client()
        with pytest.raises(MessageTooLarge, match="max_payload of 100; raise it there"):
            await store(connection, "noetl.events.x", LARGE.encode(), {})
        await reload(server, config())

        async def is_declared() -> bool:
            with suppress(NatsUnavailable):
                await ensure_stream(connection, EVENTS)
                return True
            return False

        await eventually(is_declared)
        await store(connection, "noetl.events.x", LARGE.encode(), {})

        assert await connection.client() is client


async def test_number_of_looks(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that are too large cost one connection until a refresh is due, whatever their number."""
    rare = Backoff(initial=3_600.0, maximum=3_600.0)
    monkeypatch.setattr("noetl_events.jetstream.connect.payload_limit._REFRESHES", rare)
    async with Connection(ConnectOptions(servers=server.url)) as connection:
        await reload(server, config("server"))
        await ensure_stream(connection, EVENTS)
        sink = NatsSink(connection)
        before = await connections()
        rejected = await asyncio.gather(*(is_stored(sink, make_event(n, context=LARGE)) for n in range(1, 501)))
        await sink.emit(make_event(501))
        rejected += [await is_stored(sink, make_event(n, context=LARGE)) for n in range(502, 512)]
        await sink.aclose()

        assert not any(rejected)
        assert await connections() == before + 1


async def test_server_without_room_for_a_look(server: NatsServer) -> None:
    """Where no further connection is accepted, the first connection's limit applies, and no call hangs."""
    async with Connection(ConnectOptions(servers=server.url)) as connection:
        await reload(server, config("account", more="max_connections: 1"))
        await ensure_stream(connection, EVENTS)
        sink = NatsSink(connection)
        with pytest.raises(EventsRejected, match=r"the server takes 1000 \(max_payload\)"):
            await sink.emit(make_event(1, context=LARGE))
        await sink.emit(make_event(2))
        assert connection.trouble == ""
        await reload(server, config(more="max_connections: 1"))
        assert not await is_stored(sink, make_event(1, context=LARGE))
        await reload(server, config())
        await eventually(lambda: is_stored(sink, make_event(1, context=LARGE)))
        await sink.aclose()


async def test_server_that_does_not_answer(server: NatsServer) -> None:
    """While the server cannot tell its limit, an event above the known one is not refused for good."""
    await reload(server, config("server"))
    large = make_event(1, context=LARGE)
    async with Connection(ConnectOptions(servers=server.url)) as connection:
        await ensure_stream(connection, EVENTS)
        sink = NatsSink(connection)
        server.pause()
        try:
            for _ in range(2):
                with pytest.raises(SinkUnavailable, match="last known max_payload of 1000"):
                    await sink.emit(large)
        finally:
            server.resume()
        with pytest.raises(EventsRejected):
            await emit_until_told(sink, large)
        await sink.aclose()


async def emit_until_told(sink: NatsSink, event: ExecutorEvent) -> None:
    """Emit *event* until it is stored or rejected."""
    while True:
        try:
            await sink.emit(event)
        except SinkUnavailable:
            await asyncio.sleep(0.1)
        else:
            return
