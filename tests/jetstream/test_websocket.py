"""NATS through a websocket: everything works as through TCP, and a wrong peer is reported."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from consumers.projector.destinations import destinations_of
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consume.history import History, Span
from noetl_events.jetstream.consume.puller import Puller
from noetl_events.jetstream.declarations import ConsumerDeclaration, StreamDeclaration
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.message import delivery_of
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sink import open_sink
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_events
from noetl_events.testing.nats_server import NatsServer, free_port
from tests.jetstream.certificates import Certificates
from tests.jetstream.listeners import listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STREAM = StreamDeclaration()


@pytest.fixture
def port() -> int:
    """Return the port of the websocket."""
    return free_port()


@pytest.fixture
def server(tmp_path: Path, port: int) -> Iterator[NatsServer]:
    """Run a server that also listens for websockets."""
    config = f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true }}'
    with NatsServer(store_dir=tmp_path / "nats", config=config) as started:
        yield started


async def refusal(servers: str, *, timeout: float = 60.0) -> str:  # noqa: ASYNC109  (as the option has it)
    """Return the reason why no connection is made."""
    async with Connection(ConnectOptions(servers=servers, connect_timeout=timeout)) as connection:
        with pytest.raises(NatsUnavailable) as refused:
            await connection.client()
    return str(refused.value)


async def test_stored_read_and_acknowledged(server: NatsServer, port: int) -> None:
    """Each event is stored in batches, pulled, acknowledged and read again once, also over a restart."""
    consumer = ConsumerDeclaration(stream=STREAM.name, name="mine", ack_wait=2.0)
    async with Connection(ConnectOptions(servers=f"ws://127.0.0.1:{port}")) as connection:
        await ensure_stream(connection, STREAM)
        sink, puller = NatsSink(connection), Puller(connection, consumer)
        await sink.emit_batch(make_events(3_000))
        assert sink.mode == "fast"
        taken: set[int] = set()
        while len(taken) < 3_000:
            batch = await puller.pull(500)
            await puller.ack(batch)
            taken.update(delivery_of(message).sequence for message in batch)
        await asyncio.to_thread(server.kill)
        await eventually(lambda: not connection.is_connected)
        await asyncio.to_thread(server.start)
        await sink.emit_batch(make_events(2_000, start=5_001))
        while len(taken) < 5_000:
            batch = await puller.pull(500)
            await puller.ack(batch)
            taken.update(delivery_of(message).sequence for message in batch)
        await puller.stop()
        await puller.aclose()
        await sink.aclose()
        read = 0
        async with History(connection, Span(stream=STREAM.name)) as history:
            while messages := await history.read():
                read += len(messages)

    assert taken == set(range(1, 5_001))
    assert read == 5_000


async def test_sink_url(server: NatsServer, port: int) -> None:
    """A sink URL takes a websocket address."""
    async with Connection(ConnectOptions(servers=server.url)) as connection:
        await ensure_stream(connection, STREAM)
        sink = open_sink(f"ws://127.0.0.1:{port}")
        await sink.emit_batch(make_events(10))
        await sink.aclose()
        state = (await (await connection.jetstream()).stream_info(STREAM.name)).state

    assert state.messages == 10
    assert [one.url for one in destinations_of([f"ws://127.0.0.1:{port}"], "durable")] == [f"ws://127.0.0.1:{port}"]


async def test_encrypted(tmp_path: Path, port: int) -> None:
    """wss:// is encrypted and verifies the certificate; a websocket without TLS gets no credentials."""
    certificates = Certificates(tmp_path / "tls")
    config = (
        f'websocket {{ listen: "127.0.0.1:{port}", {certificates.config()} }}\n'
        "authorization { user: worker, password: canary }"
    )
    with NatsServer(store_dir=tmp_path / "nats", config=config) as server:
        url = f"wss://worker:canary@127.0.0.1:{port}"
        async with Connection(ConnectOptions(servers=url, tls_ca=certificates.ca)) as connection:
            await (await connection.client()).flush()
            await asyncio.to_thread(server.kill)
            await eventually(lambda: not connection.is_connected)
            await asyncio.to_thread(server.start)
            await eventually(lambda: connection.is_connected)
            await (await connection.client()).flush()
        assert "certificate that the client does not accept" in await refusal(url)
    async with listening(b"HTTP/1.1 101 Switching Protocols\r\n\r\n") as listener:
        assert "TLS" in await refusal(f"wss://worker:canary@{listener.host}")
        assert b"canary" not in listener.heard


async def test_wrong_peers(own_server: NatsServer) -> None:
    """A peer that is no websocket is reported."""
    assert "is a NATS server's port for TCP; write nats://" in await refusal(f"ws://127.0.0.1:{own_server.port}")
    assert "refuses the connection" in await refusal("ws://127.0.0.1:1")
    async with listening() as silent:
        assert "does not answer within 3 s" in await refusal(f"ws://{silent.host}", timeout=3.0)
    page = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    async with listening(page) as web:
        assert "answers the WebSocket handshake with 404" in await refusal(f"ws://{web.host}")


async def test_discovered_websockets(tmp_path: Path) -> None:
    """Discovered servers are connected through websockets, too, and the client reconnects to another one."""
    routes, sockets = [free_port(), free_port()], [free_port(), free_port()]
    listed = ", ".join(f'"nats://127.0.0.1:{route}"' for route in routes)

    def config(number: int) -> str:
        return (
            f'cluster {{ name: c, listen: "127.0.0.1:{routes[number]}", routes: [{listed}] }}\n'
            f'websocket {{ listen: "127.0.0.1:{sockets[number]}", no_tls: true }}'
        )

    with (
        NatsServer(store_dir=tmp_path / "n0", name="n0", config=config(0), jetstream=False) as first,
        NatsServer(store_dir=tmp_path / "n1", name="n1", config=config(1), jetstream=False),
    ):
        options = ConnectOptions(servers=f"ws://127.0.0.1:{sockets[0]}", connect_timeout=20.0)
        async with Connection(options) as connection:
            client = await connection.client()
            await eventually(lambda: f"127.0.0.1:{sockets[1]}" in [url.netloc for url in client.discovered_servers])
            await asyncio.to_thread(first.kill)
            await eventually(lambda: connection.info.get("server_name") == "n1" and connection.is_connected)
            await client.flush()
