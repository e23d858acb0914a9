"""Connections closed by the server: its reason is reported, and reconnections back off."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import structlog

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import show_stream
from noetl_events.testing import eventually
from noetl_events.testing.nats_server import NatsServer, free_port
from tests.jetstream.listeners import info, listening

if TYPE_CHECKING:
    from pathlib import Path

    from noetl_events.jetstream.client import DirectClient


async def keep_using(connection: Connection, seconds: float, *, until: str = "") -> set[str]:
    """Subscribe whenever there is a connection, for *seconds* and until an exception says *until*, and return all."""
    said: set[str] = set()
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end or (until and until not in said and loop.time() < end + 180.0):
        try:
            client = await connection.client()
            if client.is_connected:
                for number in range(5):
                    await client.subscribe(f"many.{number}")
                await client.flush(timeout=1)
        except NatsUnavailable as exc:
            said.add(str(exc).partition("; next attempt")[0])
        except Exception as exc:  # noqa: BLE001  (any error of a lost connection)
            said.add(type(exc).__name__)
        await asyncio.sleep(0.01)
    return said


async def test_more_subscriptions_than_allowed(tmp_path: Path) -> None:
    """A server that closes each connection for its subscriptions is retried with back-off, and its reason reported."""
    monitor = free_port()
    with NatsServer(store_dir=tmp_path, config=f'max_subscriptions: 2\nhttp: "127.0.0.1:{monitor}"') as server:

        def connections() -> int:
            with urllib.request.urlopen(f"http://127.0.0.1:{monitor}/varz", timeout=60) as answer:
                return int(json.load(answer)["total_connections"])

        words = f"127.0.0.1:{server.port} has closed the connection: maximum subscriptions exceeded"
        with structlog.testing.capture_logs() as logged:
            async with Connection(ConnectOptions(servers=server.url)) as connection:
                said = await keep_using(connection, 4.0, until=words)
                trouble = connection.trouble
                made = await asyncio.to_thread(connections)

    assert words in said
    assert trouble == words
    assert made < 15
    assert len([line for line in logged if line["event"] == "connection.lost"]) == 1


async def test_client_closed_while_it_reconnects(tmp_path: Path) -> None:
    """A client that the server refuses during a reconnection is replaced: it would come back without subscriptions."""
    with NatsServer(store_dir=tmp_path) as server:
        async with Connection(ConnectOptions(servers=server.url)) as connection:
            for _ in range(5):
                client = await connected(connection)
                for number in range(3):
                    await client.subscribe(f"many.{number}")
                await restart(server, "max_subscriptions: 1")
                await eventually(lambda: is_replaced(connection, client))  # noqa: B023  (called in this round only)
                await restart(server, "")
                assert client.is_closed


async def restart(server: NatsServer, config: str) -> None:
    """Restart *server* with *config*."""
    await asyncio.to_thread(server.terminate)
    server.config = config
    await asyncio.to_thread(server.start)


async def connected(connection: Connection) -> DirectClient:
    """Return the client of *connection* once it is connected."""

    async def client() -> DirectClient | None:
        with suppress(NatsUnavailable):
            found = await connection.client()
            return found if found.is_connected else None
        return None

    found: DirectClient = await eventually(client)
    return found


async def is_replaced(connection: Connection, client: DirectClient) -> bool:
    """Return True if *connection* has another client than *client*."""
    with suppress(NatsUnavailable):
        return await connection.client() is not client
    return False


@pytest.mark.parametrize(
    "words",
    [
        "user authentication expired",
        "user authentication revoked",
        "account authentication expired",
        "maximum account active connections exceeded",
        "maximum payload violation",
        "maximum control line exceeded",
        "invalid client protocol",
        "words of a server from the year 2040",
    ],
)
async def test_any_word_of_a_server(words: str) -> None:
    """The reason a server gives right after accepting a client is in the log, the error and the trouble."""
    async with (
        listening(info() + f"PONG\r\n-ERR '{words}'\r\n".encode()) as listener,
        Connection(ConnectOptions(servers=f"nats://{listener.host}")) as connection,
    ):
        expected = f"{listener.host} has closed the connection: {words}"
        with structlog.testing.capture_logs() as logged:
            said = await keep_using(connection, 1.5, until=expected)

        assert expected in said
        assert connection.trouble == expected
        assert listener.connections < 10
        assert words in [line["reason"] for line in logged if line["event"] == "connection.lost"]


async def test_peer_that_closes_after_a_moment_without_a_word() -> None:
    """A peer that accepts a client and closes at once is retried with back-off, too."""
    async with (
        listening(info() + b"PONG\r\n", closes=True) as listener,
        Connection(ConnectOptions(servers=f"nats://{listener.host}", connect_timeout=1.0)) as connection,
    ):
        await keep_using(connection, 3.0)

        assert listener.connections < 30


async def test_more_connections_than_allowed(tmp_path: Path) -> None:
    """A server that has reached its connection limit is reported as such, at once."""
    with NatsServer(store_dir=tmp_path, config="max_connections: 1") as server:
        options = ConnectOptions(servers=server.url, connect_timeout=120.0)
        async with Connection(options) as first, Connection(options) as second:
            # The server may still count the connection by which its start was checked.
            await eventually(lambda: connects(first))
            async with asyncio.timeout(60):
                with pytest.raises(NatsUnavailable, match="refuses: maximum connections exceeded"):
                    await second.client()


async def test_wrong_password_is_told_at_once(tmp_path: Path) -> None:
    """Wrong credentials are no outage: the error is raised at once, and the attempts back off."""
    with NatsServer(store_dir=tmp_path, config="authorization { user: u, password: p }") as server:
        options = ConnectOptions(servers=server.url, user="u", password="wrong", connect_timeout=120.0)
        async with Connection(options) as connection:
            async with asyncio.timeout(60):
                with pytest.raises(NatsUnavailable, match="refuses: Authorization Violation"):
                    await connection.client()
            said = await keep_using(connection, 3.0)

            assert said == {f"cannot connect to {server.url}: it refuses: Authorization Violation"}


async def test_good_connection_after_trouble(own_server: NatsServer) -> None:
    """Trouble is reported until a connection has lasted, and is over then."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        assert connection.trouble == "not connected"
        client = await connection.client()
        assert connection.trouble == ""
        await client.publish("x", b"x" * (1024 * 1024), headers={"Pushed": "over the limit"})
        await eventually(lambda: client.is_closed)
        await eventually(lambda: connects(connection))
        assert "maximum payload violation" in connection.trouble
        connection._pool._connected_at = asyncio.get_running_loop().time() - 3600

        assert connection.trouble == ""


async def connects(connection: Connection) -> bool:
    """Return whether the server accepts the client."""
    try:
        return (await connection.client()).is_connected
    except NatsUnavailable:
        return False


async def test_lame_duck(tmp_path: Path, own_server: NatsServer) -> None:
    """A server in lame duck mode is left for another one of the list."""
    lame = NatsServer(store_dir=tmp_path / "lame", config='lame_duck_duration: "30s"\nlame_duck_grace_period: "0s"')
    with lame:
        options = ConnectOptions(servers=f"{lame.url},{own_server.url}")
        async with Connection(options) as connection:
            while (await connection.client()).transport.address != f"127.0.0.1:{lame.port}":
                await connection.aclose()
                connection._closed, connection._client = False, None
            os.kill(lame.pid, signal.SIGUSR2)
            await eventually(
                lambda: connection.is_connected and connection.info.get("port") == own_server.port, timeout=180.0
            )


async def test_server_without_jetstream(tmp_path: Path) -> None:
    """A server without JetStream is reported, with the remedy."""
    with NatsServer(store_dir=tmp_path, jetstream=False, name="plain") as server:
        async with Connection(ConnectOptions(servers=server.url)) as connection:
            with pytest.raises(NatsUnavailable, match=r"server plain \(2.*\) runs without JetStream: start it with"):
                await show_stream(connection, "noetl_events")
