"""The history reader while connection, consumer, server or stream is lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consume.history import History, Span
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.errors import NatsUnavailable, StreamReplaced
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing import eventually
from noetl_events.testing.nats_server import nats_cluster
from noetl_events.testing.proxy import FaultyProxy
from tests.faults.load import is_made
from tests.jetstream.past import consumers, fill, read_all, sequences

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from noetl_events.testing.nats_server import NatsServer

EVENTS = StreamDeclaration(name="events", subjects=("events.>",))
COUNT = 2_000


@pytest.fixture
async def proxy(nats_url: str) -> AsyncIterator[FaultyProxy]:
    """Return a proxy in front of the server of this session."""
    parts = urlsplit(nats_url)
    async with FaultyProxy(parts.hostname or "", parts.port or 0) as standing:
        yield standing


@pytest.fixture
async def own_connection(own_server: NatsServer) -> AsyncIterator[Connection]:
    """Return a connection to a server of this test, with a stream of `COUNT` messages."""
    async with Connection(ConnectOptions(servers=own_server.url)) as opened:
        await ensure_stream(opened, EVENTS)
        await fill(opened, "events", COUNT)
        yield opened


async def test_lost_consumer_is_replaced(connection: Connection, stream: StreamDeclaration) -> None:
    """A lost consumer is replaced by one that starts right behind the last message read."""
    await fill(connection, stream.name, COUNT)
    found: list[int] = []
    async with History(connection, Span(stream=stream.name), max_messages=200) as history:
        while batch := await history.read(100):
            found += sequences(batch)
            for name in await consumers(connection, stream.name) if len(found) % 400 == 0 else ():
                await (await jetstream(connection)).delete_consumer(stream.name, name)

    assert found == [*range(1, COUNT + 1)]


@pytest.mark.parametrize("place", [0, 50, -1], ids=["first", "between", "last"])
async def test_message_lost_on_the_way(connection: Connection, stream: StreamDeclaration, place: int) -> None:
    """A message lost on the way is noticed and redelivered in its place."""
    await fill(connection, stream.name, 100)
    async with History(connection, Span(stream=stream.name), heartbeat=0.2) as history:
        first = await history.read(1)
        consumer = history._consumer
        assert consumer is not None
        await eventually(lambda: len(consumer._buffer) == 99)
        del consumer._buffer.messages[place]
        rest = await read_all(history, 30)

    assert sequences(first) + rest == [*range(1, 101)]


async def test_cut_connection(nats_url: str, proxy: FaultyProxy, stream: StreamDeclaration) -> None:
    """Messages lost in a reconnection are redelivered, once and in order."""
    found: list[int] = []
    async with Connection(ConnectOptions(servers=proxy.url("nats"))) as connection:
        await fill(connection, stream.name, COUNT)
        # The reader does not wait for a missed heartbeat.
        async with (
            asyncio.timeout(180),
            History(connection, Span(stream=stream.name), max_messages=200, heartbeat=14.0) as history,
        ):
            while batch := await history.read(100):
                found += sequences(batch)
                if len(found) % 500 == 0:
                    proxy.cut()

    assert found == [*range(1, COUNT + 1)]


async def test_silence_is_noticed(proxy: FaultyProxy, stream: StreamDeclaration) -> None:
    """Missed heartbeats reveal a server that stops answering; the reading continues when the server is back."""
    async with Connection(ConnectOptions(servers=proxy.url("nats"))) as connection:
        await fill(connection, stream.name, COUNT)
        async with History(connection, Span(stream=stream.name), max_messages=200, heartbeat=0.2) as history:
            first = await history.read(100)
            proxy.black_hole()
            reading = asyncio.create_task(read_all(history, 100))
            done, _ = await asyncio.wait({reading}, timeout=1.0)
            assert not done
            proxy.heal()
            async with asyncio.timeout(180):
                rest = await reading

    assert sequences(first) + rest == [*range(1, COUNT + 1)]


async def test_server_killed_and_restarted(own_server: NatsServer, own_connection: Connection) -> None:
    """A reading continues after its server's restart with a new consumer, as the old one was in memory."""
    async with History(own_connection, Span(stream="events"), max_messages=200) as history:
        first = await history.read(100)
        own_server.kill()
        reading = asyncio.create_task(read_all(history, 100))
        await asyncio.to_thread(own_server.start)
        async with asyncio.timeout(180):
            rest = await reading

    assert sequences(first) + rest == [*range(1, COUNT + 1)]


async def test_server_away_for_longer_than_the_patience(own_server: NatsServer, own_connection: Connection) -> None:
    """A server that is unavailable beyond the patience is an error, and a later reading is safe."""
    span = Span(stream="events")
    async with History(own_connection, span, max_messages=200, heartbeat=0.2, patience=0.2) as history:
        first = await history.read(100)
        own_server.kill()
        with pytest.raises(NatsUnavailable):
            await read_all(history, 100)
        before = history.position
        await asyncio.to_thread(own_server.start)
        await (await own_connection.client()).flush(timeout=60)
        rest: list[int] = []
        while history.position < COUNT:
            # A stream that the server has not loaded yet outlasts the patience, too.
            with suppress(NatsUnavailable):
                rest += sequences(await history.read(100))

    assert len(first) <= before < COUNT
    assert rest == [*range(before + 1, COUNT + 1)]


@pytest.mark.parametrize("count", [10, COUNT + 10], ids=["shorter", "longer"])
async def test_stream_created_again_is_an_error(own_connection: Connection, count: int) -> None:
    """A stream created again under the same name is an error, as its sequences are not those of the one read."""
    js = await jetstream(own_connection)
    async with History(own_connection, Span(stream="events"), max_messages=200) as history:
        await history.read(100)
        await js.delete_stream("events")
        await ensure_stream(own_connection, EVENTS)
        await fill(own_connection, "events", count)
        with pytest.raises(StreamReplaced, match="stream events was created again"):
            await read_all(history, 100)


async def test_leaders_change(tmp_path: Path) -> None:
    """A reading of the past gets every message once and in order while each server of the cluster is killed once."""
    with nats_cluster(tmp_path) as members:
        urls = ",".join(member.url for member in members)
        async with Connection(ConnectOptions(servers=urls)) as connection:
            declared = StreamDeclaration(name="events", subjects=("events.>",), replicas=3)
            await eventually(lambda: is_made(connection, declared))
            await fill(connection, "events", COUNT)
            found: list[int] = []
            async with History(connection, Span(stream="events"), max_messages=200, heartbeat=1.0) as history:
                for member in members:
                    found += sequences(await history.read(100))
                    member.kill()
                    await asyncio.to_thread(member.start)
                found += await read_all(history, 100)

    assert found == [*range(1, COUNT + 1)]
