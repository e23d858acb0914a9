"""Connecting to a server: names with several addresses, lists of servers, and other peers at an address."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import pytest

from noetl_events.jetstream.connect.servers import ServerPool
from noetl_events.jetstream.connect.tcp import TcpTransport
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.testing import eventually
from noetl_events.testing.nats_server import NatsServer, free_port
from tests.jetstream.listeners import BlackHole, info, listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


async def refusal(servers: str, **options: Any) -> str:
    """Return the reason why no server of *servers* accepts the client."""
    async with Connection(ConnectOptions(servers=servers, **options)) as connection:
        with pytest.raises(NatsUnavailable) as refused:
            await connection.client()
    return str(refused.value)


async def reaches(servers: str, **options: Any) -> None:
    """Return once a server of *servers* has answered."""
    async with Connection(ConnectOptions(servers=servers, **options)) as connection:
        await (await connection.client()).flush(timeout=60)


async def reaches_soon(servers: str) -> None:
    """Return once a server of *servers* has answered within the shortest connect timeout that this machine allows."""
    for timeout in (1.0, 4.0, 16.0):
        with suppress(NatsUnavailable):
            return await reaches(servers, connect_timeout=timeout)
    return await reaches(servers, connect_timeout=60.0)


@pytest.fixture
def black_hole() -> Iterator[BlackHole]:
    """Return an address that never answers."""
    hole = BlackHole()
    yield hole
    hole.close()


def name_has(monkeypatch: pytest.MonkeyPatch, name: str, *addresses: str) -> None:
    """Make *name* resolve to *addresses*, in this order."""
    known = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host != name:
            return known(host, port, *arguments, **options)
        return [told for address in addresses for told in known(address, port, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def test_name_whose_first_address_is_dead(own_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The further addresses of a name are tried at once, not after the timeout of the first."""
    name_has(monkeypatch, "several.test", "127.0.0.2", "127.0.0.3", "127.0.0.1")
    holes = [BlackHole(host, own_server.port) for host in ("127.0.0.2", "127.0.0.3")]
    try:
        async with asyncio.timeout(180):
            await reaches(f"nats://several.test:{own_server.port}", connect_timeout=3_600.0)
    finally:
        for hole in holes:
            hole.close()


async def test_name_whose_first_address_takes_connections_and_says_nothing(
    own_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address where a silent listener is no NATS server is skipped like one where nothing listens."""
    name_has(monkeypatch, "several.test", "127.0.0.2", "127.0.0.1")
    silent = socket.create_server(("127.0.0.2", own_server.port))
    try:
        async with asyncio.timeout(180):
            await reaches(f"nats://several.test:{own_server.port}", connect_timeout=3_600.0)
    finally:
        silent.close()


async def test_every_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a name without a working address lists each address with its reason."""
    name_has(monkeypatch, "several.test", "127.0.0.2", "127.0.0.1")
    async with listening(b"SSH-2.0-x\r\n") as listener:
        reason = await refusal(f"nats://several.test:{listener.port}", connect_timeout=60.0)

    assert "127.0.0.2 refuses the connection" in reason
    assert "127.0.0.1 answers 'SSH-2.0-x'" in reason


async def test_name_that_does_not_resolve() -> None:
    """A name without an address is reported as one."""
    assert "name that does not resolve" in await refusal("nats://no-such-host.invalid:4222")


async def test_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow name server costs the connect timeout, and delays neither a stop nor the end of the process."""
    released, answered = threading.Event(), threading.Event()

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        released.wait(180)
        answered.set()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        assert "does not answer within 0.3 s" in await refusal("nats://slow.test:4222", connect_timeout=0.3)
        await asyncio.get_running_loop().shutdown_default_executor()

        assert not answered.is_set()
    finally:
        released.set()


async def test_each_server_of_a_list_has_its_time(
    own_server: NatsServer, black_hole: BlackHole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working server of a list is reached although each dead one before it has used up its timeout."""
    monkeypatch.setattr(ServerPool, "round", lambda pool: list(pool._servers))
    async with listening() as silent:
        await reaches_soon(f"nats://{silent.host},nats://127.0.0.1:{black_hole.port},{own_server.url}")


async def test_every_server_of_a_list_is_named(black_hole: BlackHole) -> None:
    """The error for a list without a working server names each server with its reason."""
    async with listening(closes=True) as closing:
        servers = f"nats://127.0.0.1:1,nats://{closing.host},nats://127.0.0.1:{black_hole.port}"
        reason = await refusal(servers, connect_timeout=0.5)

    assert reason.startswith("cannot connect: ")
    assert "nats://127.0.0.1:1 refuses the connection: nothing listens there" in reason
    assert f"nats://{closing.host} closes the connection without an answer" in reason
    assert f"nats://127.0.0.1:{black_hole.port} does not answer within 0.5 s" in reason


async def test_refused_connection_is_said_at_once() -> None:
    """A refused connection fails at once, not after the connect timeout."""
    async with asyncio.timeout(180):
        reason = await refusal("nats://127.0.0.1:1", connect_timeout=3_600.0)

    assert reason == "cannot connect to nats://127.0.0.1:1: it refuses the connection: nothing listens there"


async def test_asked_again_too_soon_the_same_is_said() -> None:
    """A caller that retries constantly makes no connections, and gets the last error with the time of the next try."""
    async with listening(closes=True) as closing, Connection(ConnectOptions(servers=f"nats://{closing.host}")) as one:
        began = time.monotonic()
        while time.monotonic() - began < 2:
            with pytest.raises(NatsUnavailable) as refused:
                await one.client()
            await asyncio.sleep(0.001)

        assert closing.connections < 15
        assert "closes the connection without an answer" in str(refused.value)


@pytest.mark.parametrize(
    ("port", "words"),
    [
        pytest.param(
            "monitoring", "it is an HTTP server, such as the monitoring port of nats-server;", id="monitoring"
        ),
        pytest.param("cluster", "port for the other servers of its cluster", id="cluster"),
        pytest.param("leafnodes", "port for leaf nodes", id="leaf nodes"),
        pytest.param("websocket", "it is a websocket port; write ws://", id="websocket"),
    ],
)
async def test_other_ports_of_a_server(port: str, words: str, tmp_path: Path) -> None:
    """Each other port of a server is reported by its purpose, and the next server of the list is tried."""
    ports = {name: free_port() for name in ("monitoring", "cluster", "leafnodes", "websocket")}
    config = (
        f'http: "127.0.0.1:{ports["monitoring"]}"\n'
        f'cluster {{ name: c, listen: "127.0.0.1:{ports["cluster"]}" }}\n'
        f'leafnodes {{ listen: "127.0.0.1:{ports["leafnodes"]}" }}\n'
        f'websocket {{ listen: "127.0.0.1:{ports["websocket"]}", no_tls: true }}\n'
    )
    with NatsServer(store_dir=tmp_path, config=config, jetstream=False) as server:
        url = f"nats://127.0.0.1:{ports[port]}"
        assert words in await refusal(url, connect_timeout=60.0)
        for _ in range(3):
            await reaches(f"{url},{server.url}", connect_timeout=60.0)


@pytest.mark.parametrize(
    ("says", "closes", "words"),
    [
        pytest.param(b"", False, "it does not answer within 1 s", id="silent"),
        pytest.param(b"", True, "it closes the connection without an answer", id="closes"),
        pytest.param(b"220 mail ESMTP\r\n", False, "it answers '220 mail ESMTP', which is not NATS", id="mail"),
        pytest.param(b"\x00\x01\xff", False, "which is not NATS", id="binary"),
        pytest.param(b"INFO", True, "it closes the connection without an answer", id="cut off"),
        pytest.param(b'INFO {"server_id":"x', True, "in the middle of its first line", id="half a line, then closes"),
        pytest.param(b'INFO {"server_id":"x', False, "it does not answer within 1 s", id="half a line"),
        pytest.param(b"INFO []\r\n", False, "cannot be read", id="no object"),
        pytest.param(b"INFO {\r\n", False, "cannot be read", id="no JSON"),
        pytest.param(b"INFO {" + b" " * 1_000_000, False, "cannot be read", id="endless line"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", True, "it answers HTTP, not NATS", id="HTTP"),
        pytest.param(b"\x15\x03\x01\x00\x02\x02\x28", True, "answers with TLS", id="TLS alert"),
        pytest.param(b"-ERR 'maximum connections exceeded'\r\n", True, "refuses: 'maximum conn", id="error at once"),
        pytest.param(info() + b"-ERR 'Authorization Violation'\r\n", True, "refuses: Authorization", id="error next"),
        pytest.param(info(), False, "it does not answer within 1 s", id="silent after its INFO"),
        pytest.param(info(), True, "on receiving the credentials", id="closes after its INFO"),
    ],
)
async def test_what_answers_is_said(says: bytes, closes: bool, words: str, own_server: NatsServer) -> None:  # noqa: FBT001  (an example)
    """The kind of peer at an address is reported in one sentence, and the next server of the list is tried."""
    async with listening(says, closes=closes) as listener:
        is_silent = "within 1 s" in words
        assert words in await refusal(f"nats://{listener.host}", connect_timeout=1.0 if is_silent else 60.0)
        await reaches_soon(f"nats://{listener.host},{own_server.url}")


async def test_first_line_of_a_large_cluster(own_server: NatsServer) -> None:
    """An INFO of a hundred kilobytes, as thousands of addresses make it, is read."""
    urls = [f"10.{n // 250}.{n % 250}.1:4222" for n in range(5_000)]
    async with listening(info(connect_urls=urls) + b"PONG\r\n") as listener:
        await_client = Connection(ConnectOptions(servers=f"nats://{listener.host}", connect_timeout=60.0))
        client = await await_client.client()
        assert len(client.discovered_servers) == 5_000
        await await_client.aclose()


async def test_ipv6(tmp_path: Path) -> None:
    """An IPv6 address in brackets reaches its server."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as exc:
        pytest.skip(f"this machine has no IPv6: {exc}")
    port = free_port()
    with NatsServer(store_dir=tmp_path, config=f'leafnodes {{ listen: "[::1]:{port}" }}', jetstream=False):
        assert "port for leaf nodes" in await refusal(f"nats://[::1]:{port}")


async def test_stopping_while_it_connects(black_hole: BlackHole) -> None:
    """Closing a connection that is being made does not wait for it, and its callers get an error."""
    connection = Connection(ConnectOptions(servers=f"nats://127.0.0.1:{black_hole.port}", connect_timeout=3_600.0))
    waiting = asyncio.ensure_future(connection.client())
    await asyncio.sleep(0.1)
    async with asyncio.timeout(180):
        await connection.aclose()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_caller_that_gives_up_leaves_the_attempt_to_others(own_server: NatsServer) -> None:
    """A cancelled caller leaves the connection attempt to the other caller that waits for it."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        first, second = (asyncio.ensure_future(connection.client()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()

        assert (await second).is_connected
        assert first.cancelled()


async def test_discovered_addresses_that_are_dead(tmp_path: Path) -> None:
    """With three advertised addresses that swallow packets, a client is back whenever its server is."""
    holes = [BlackHole() for _ in range(3)]
    routes = [free_port() for _ in range(4)]
    listed = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)

    def config(number: int, advertised: str) -> str:
        return (
            f'cluster {{ name: c, listen: "127.0.0.1:{routes[number]}", routes: [{listed}] }}\n'
            f'client_advertise: "{advertised}"'
        )

    others = [
        NatsServer(
            store_dir=tmp_path / f"n{n}", name=f"n{n}", jetstream=False, config=config(n, f"127.0.0.1:{hole.port}")
        )
        for n, hole in enumerate(holes, 1)
    ]
    port = free_port()
    front = NatsServer(
        store_dir=tmp_path / "n0", name="n0", port=port, jetstream=False, config=config(0, f"127.0.0.1:{port}")
    )
    try:
        for server in (*others, front):
            server.start()
        async with Connection(ConnectOptions(servers=front.url, connect_timeout=1.0)) as connection:
            client = await connection.client()
            await eventually(lambda: len(client.discovered_servers) == 3)
            for _ in range(3):
                front.kill()
                await eventually(lambda: not connection.is_connected)
                await asyncio.sleep(2.5)
                front.start()
                await eventually(lambda: connection.is_connected)
    finally:
        for server in (*others, front):
            server.kill()
        for hole in holes:
            hole.close()


async def test_why_a_connection_broke_is_not_said_of_the_next() -> None:
    """The reason of a broken connection is forgotten once another one is made."""

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(info())
        await reader.readline()
        # With this option a closed connection is reset.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    transport = TcpTransport(is_encrypted=False, name_of=str, timeout=60.0)
    server = await asyncio.start_server(reset, "127.0.0.1", 0)
    async with server, listening(info()) as other:
        await transport.open(urlparse(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        transport.write(b"PING\r\n")
        with pytest.raises(OSError, match="reset"):
            await transport.read(4_096)
        assert "reset" in transport.ended
        await transport.open(urlparse(f"nats://{other.host}"))

        assert transport.ended == ""
        await transport.wait_closed()


async def test_closed_before_it_was_used() -> None:
    """A connection that was closed before use connects on its next use, to the server configured then."""
    transport = TcpTransport(is_encrypted=False, name_of=str, timeout=60.0)
    async with listening(info(server_name="first")) as first, listening(info(server_name="second")) as second:
        await transport.open(urlparse(f"nats://{first.host}"))
        await transport.wait_closed()
        await transport.connect(urlparse(f"nats://{second.host}"), 0, 0)

        assert b'"second"' in await transport.readline()
        await transport.wait_closed()
