"""The faults of the proxy, as seen by clients and servers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import nats
import pytest

from noetl_events.testing.nats_server import NatsServer
from noetl_events.testing.proxy import FaultyProxy
from noetl_events.testing.server_process import free_port
from tests.testing_kit.echo import SILENCE, EchoServer, connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def server() -> AsyncIterator[EchoServer]:
    """Run an echo server."""
    async with EchoServer() as server:
        yield server


@pytest.fixture
async def proxy(server: EchoServer) -> AsyncIterator[FaultyProxy]:
    """Run a proxy in front of the server."""
    async with FaultyProxy("127.0.0.1", server.port) as proxy:
        yield proxy


async def test_whole_proxy_passes_bytes_and_ends(server: EchoServer, proxy: FaultyProxy) -> None:
    """Without a fault all bytes pass, and the end of one direction leaves the other open."""
    async with connected(proxy.port) as client:
        assert await client.echo(b"1") == b"1"

        client.writer.write_eof()

        assert await client.receive() == b""
        await server.ends.acquire()


async def test_cut_resets_both_sides_and_spares_new_connections(server: EchoServer, proxy: FaultyProxy) -> None:
    """A cut resets client and server; the next connection works."""
    async with connected(proxy.port) as client:
        await client.echo(b"1")

        proxy.cut()

        with pytest.raises(ConnectionResetError):
            await client.receive()
        await server.ends.acquire()
    async with connected(proxy.port) as client:
        assert await client.echo(b"2") == b"2"


async def test_cut_reaches_connections_just_made(proxy: FaultyProxy) -> None:
    """A connection that the proxy has not accepted yet is reset too."""
    async with connected(proxy.port) as client:
        proxy.cut()

        with pytest.raises(ConnectionResetError):
            await client.receive()


async def test_black_hole_swallows_bytes_and_ends(server: EchoServer, proxy: FaultyProxy) -> None:
    """In a black hole neither side notices anything of the other; healing resets connections that lost bytes."""
    async with connected(proxy.port) as leaving, connected(proxy.port) as waiting:
        await leaving.echo(b"1")
        await waiting.echo(b"1")
        proxy.black_hole()
        waiting.writer.write(b"2")
        leaving.writer.close()

        assert await waiting.is_silent()
        assert server.ends.locked()

        proxy.heal()

        with pytest.raises(ConnectionResetError):
            await waiting.receive()
        await server.ends.acquire()
        await server.ends.acquire()


async def test_connection_made_in_a_black_hole_gets_no_answer(proxy: FaultyProxy) -> None:
    """A black hole accepts new connections, which are reset when it heals."""
    proxy.black_hole()
    async with connected(proxy.port) as client:
        client.writer.write(b"1")

        assert await client.is_silent()

        proxy.heal()

        with pytest.raises(ConnectionResetError):
            await client.receive()


async def test_connection_idle_in_a_black_hole_goes_on(proxy: FaultyProxy) -> None:
    """A connection that lost no byte survives a black hole."""
    async with connected(proxy.port) as client:
        await client.echo(b"1")
        proxy.black_hole()
        proxy.heal()
        assert await client.echo(b"2") == b"2"


async def test_somebody_else_answers(server: EchoServer, proxy: FaultyProxy) -> None:
    """A replacement server resets open connections and answers new ones; healed, the original is back."""
    async with connected(proxy.port) as before:
        await before.echo(b"1")

        proxy.impersonate(b"hello, stranger")

        with pytest.raises(ConnectionResetError):
            await before.receive()
        await server.ends.acquire()
    async with connected(proxy.port) as during, connected(proxy.port) as idle:
        assert await during.echo(b"2") == b"hello, stranger"
        assert await during.receive() == b""

        proxy.heal()

        with pytest.raises(ConnectionResetError):
            await idle.receive()
    async with connected(proxy.port) as after:
        assert await after.echo(b"3") == b"3"


async def test_refusing_spares_open_connections(proxy: FaultyProxy) -> None:
    """Only new connections are refused, until the proxy heals at the same port."""
    async with connected(proxy.port) as client:
        await client.echo(b"1")
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await client.echo(b"2") == b"2"

    proxy.heal()

    async with connected(proxy.port) as client:
        assert await client.echo(b"3") == b"3"


@pytest.mark.parametrize("lost_on_the_way", ["up", "down"])
async def test_chosen_chunks_are_dropped(proxy: FaultyProxy, lost_on_the_way: str) -> None:
    """A predicate drops single chunks in one direction, and the connection continues."""
    proxy.drop(lambda direction, chunk: (direction, chunk) == (lost_on_the_way, b"lost"))
    async with connected(proxy.port) as client:
        client.writer.write(b"lost")

        assert await client.is_silent()
        assert await client.echo(b"kept") == b"kept"


async def test_failing_predicate_is_heard_of(server: EchoServer) -> None:
    """An error in a predicate breaks its connection and is raised when the proxy closes."""
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with FaultyProxy("127.0.0.1", server.port) as proxy, connected(proxy.port) as client:
            proxy.drop(lambda _direction, _chunk: bool(1 / 0))
            with pytest.raises(ConnectionResetError):
                await client.echo(b"1")


async def test_server_that_is_down_resets_clients() -> None:
    """Without a server behind the proxy a client is reset."""
    async with FaultyProxy("127.0.0.1", free_port()) as proxy, connected(proxy.port) as client:
        with pytest.raises(ConnectionResetError):
            await client.receive()


async def test_closed_proxy_leaves_nothing_behind(server: EchoServer) -> None:
    """Closing resets the open connections, ends all tasks and frees the port."""
    before = asyncio.all_tasks()
    async with FaultyProxy("127.0.0.1", server.port) as proxy, connected(proxy.port) as client:
        await client.echo(b"1")
        await proxy.__aexit__()
        await server.ends.acquire()

        assert asyncio.all_tasks() == before
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)


@pytest.mark.parametrize(
    ("straight", "led"),
    [
        pytest.param("nats://127.0.0.1:4222", "nats://127.0.0.1:{}", id="bare"),
        pytest.param("postgresql://u:p@db:5432/a?b=c", "postgresql://u:p@127.0.0.1:{}/a?b=c", id="with everything"),
    ],
)
def test_url_through_the_proxy(straight: str, led: str) -> None:
    """A URL keeps all parts except host and port."""
    proxy = FaultyProxy("127.0.0.1", 1)

    assert proxy.through(straight) == led.format(proxy.port)


async def test_nats_client_gets_over_a_cut_and_a_black_hole(tmp_path: Path) -> None:
    """A NATS client notices a silent connection, and reconnects through the proxy afterwards."""
    reconnected = asyncio.Semaphore(0)

    async def note() -> None:
        reconnected.release()

    with NatsServer(store_dir=tmp_path) as nats_server:
        async with FaultyProxy("127.0.0.1", nats_server.port) as proxy, asyncio.timeout(180):
            client = await nats.connect(proxy.url("nats"), reconnected_cb=note, reconnect_time_wait=0.01)
            proxy.cut()
            await reconnected.acquire()
            proxy.black_hole()
            with pytest.raises(nats.errors.TimeoutError):
                await client.request("anybody", timeout=SILENCE)
            proxy.heal()
            await reconnected.acquire()
            await client.flush()
            await client.close()
