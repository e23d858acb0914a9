"""The live stream: every sequence once and in order, through any outage."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import TYPE_CHECKING

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_event, make_events
from noetl_events.testing.server_process import free_port
from tests.cli.command import run
from tests.gateway.gateway_process import serving
from tests.gateway.reader import reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events import ExecutorEvent
    from noetl_events.testing.nats_server import NatsServer


async def publish(connection: Connection, stream: StreamDeclaration, events: Sequence[ExecutorEvent]) -> None:
    """Store *events*."""
    sink = NatsSink(connection, subject=stream.subjects[0].replace(">", "{event_type}"))
    await sink.emit_batch(events)
    await sink.aclose()


async def test_from_start(connection: Connection, stream: StreamDeclaration) -> None:
    """A stream from the start has the stored events, then the new ones, each once and in order."""
    await publish(connection, stream, make_events(3))
    async with serving(connection, stream) as web, reading(web.url, "from=start") as reader:
        await eventually(lambda: len(reader.sequences) == 3)
        await publish(connection, stream, make_events(3, start=4))
        await eventually(lambda: len(reader.sequences) == 6)

        assert reader.sequences == [1, 2, 3, 4, 5, 6]
        assert [body["event_id"] for body in reader.bodies] == [1, 2, 3, 4, 5, 6]


async def test_only_new(connection: Connection, stream: StreamDeclaration) -> None:
    """By default the stream has new events only, those that pass the filters."""
    await publish(connection, stream, make_events(3))
    async with serving(connection, stream) as web:
        query = "execution_id=9&event_type=call.done,step.enter"
        async with reading(web.url) as everything, reading(web.url, query) as some:
            await eventually(lambda: web.gateway.hub.clients == 2 and not web.gateway.hub.reason)
            events = [
                make_event(4, execution_id=9, event_type="call.done"),
                make_event(5, execution_id=9, event_type="call.error"),
                make_event(6, execution_id=8, event_type="call.done"),
                make_event(7, execution_id=9, event_type="step.enter"),
            ]
            await publish(connection, stream, events)
            await eventually(lambda: len(everything.sequences) == 4 and len(some.sequences) == 2)

            assert everything.sequences == [4, 5, 6, 7]
            assert some.sequences == [4, 7]


async def test_gateway_restarts(connection: Connection, stream: StreamDeclaration) -> None:
    """A client gets each sequence once and in order through restarts of the gateway."""
    port = free_port()
    async with reading(f"http://127.0.0.1:{port}", "from=start") as reader:
        for round_ in range(3):
            await publish(connection, stream, make_events(50, start=1 + 100 * round_))
            async with serving(connection, stream, port=port):
                await publish(connection, stream, make_events(50, start=51 + 100 * round_))
                await eventually(partial(reader.has, 100 * (round_ + 1)))

        assert reader.sequences == list(range(1, 301))
        assert reader.connections == 3
        assert not reader.controls


async def test_server_restarts(own_server: NatsServer) -> None:
    """A client stays connected through a restart of NATS, and gets each sequence once and in order."""
    declared = StreamDeclaration()
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        await ensure_stream(connection, declared)
        await publish(connection, declared, make_events(10))
        async with serving(connection, declared) as web, reading(web.url, "from=start") as reader:
            await eventually(lambda: len(reader.sequences) == 10)
            own_server.kill()
            await asyncio.to_thread(own_server.start)
            await publish(connection, declared, make_events(10, start=11))
            await eventually(lambda: len(reader.sequences) >= 20)

            assert reader.sequences == list(range(1, 21))
            assert reader.connections == 1


async def test_catching_up(connection: Connection, stream: StreamDeclaration) -> None:
    """A client far behind gets the stream's history, then the live events, without gap or repeat."""
    await publish(connection, stream, make_events(7_000))
    async with serving(connection, stream) as web, reading(web.url, "from=start") as reader:
        await publish(connection, stream, make_events(2_000, start=7_001))
        await eventually(lambda: len(reader.sequences) >= 9_000)

        assert reader.sequences == list(range(1, 9_001))


async def test_purged(connection: Connection, stream: StreamDeclaration) -> None:
    """A client that missed purged events is told, and gets all present ones."""
    await publish(connection, stream, make_events(10))
    await (await jetstream(connection)).purge_stream(stream.name, seq=6)
    async with serving(connection, stream) as web, reading(web.url, "last_event_id=2") as reader:
        await eventually(lambda: len(reader.sequences) == 5)

        assert reader.controls == [("resync", {"reason": "expired", "first_sequence": 6, "last_sequence": 10})]
        assert reader.sequences == [6, 7, 8, 9, 10]


async def test_created_again(connection: Connection, stream: StreamDeclaration) -> None:
    """A client is told that the stream was created again, and gets the new one from its start."""
    await publish(connection, stream, make_events(10))
    async with serving(connection, stream) as web, reading(web.url, "from=start") as reader:
        await eventually(lambda: len(reader.sequences) == 10)
        await (await jetstream(connection)).delete_stream(stream.name)
        await ensure_stream(connection, stream)
        await publish(connection, stream, make_events(3, start=100))
        await eventually(lambda: len(reader.sequences) == 13)

        assert [(name, data["reason"]) for name, data in reader.controls] == [("resync", "replaced")]
        assert reader.sequences[10:] == [1, 2, 3]


async def test_ahead_of_the_stream(connection: Connection, stream: StreamDeclaration) -> None:
    """A client ahead of the stream has read another stream, and starts again."""
    await publish(connection, stream, make_events(3))
    async with serving(connection, stream) as web, reading(web.url, "last_event_id=99") as reader:
        await eventually(lambda: len(reader.sequences) == 3)

        assert [(name, data["reason"]) for name, data in reader.controls] == [("resync", "replaced")]


async def test_slow_client(connection: Connection, stream: StreamDeclaration) -> None:
    """A client that reads too slowly gets a message and is disconnected; the others get every event."""
    async with serving(connection, stream) as web, reading(web.url, "from=start") as reader:
        web.gateway.hub.ring._max_events = 50
        slow, writer = await asyncio.open_connection("127.0.0.1", web.port, limit=1_000)
        writer.write(b"GET /api/events/stream?from=start HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await slow.readuntil(b"retry: 1000")
        for start in range(1, 601, 20):
            events = [make_event(n, context="x" * 50_000) for n in range(start, start + 20)]
            await publish(connection, stream, events)
            await eventually(partial(reader.has, start + 19))

        rest = await asyncio.wait_for(slow.read(), 180)
        assert b"event: dropped" in rest[-1_000:]
        assert reader.sequences == list(range(1, 601))
        assert web.gateway.event_stream.dropped == 1
        writer.close()


async def test_terminated(own_server: NatsServer) -> None:
    """On SIGTERM the process answers its requests, tells its listeners to reconnect, and exits with 0."""
    port = free_port()
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        await ensure_stream(connection, StreamDeclaration())
        command = ("-m", "consumers", "serve", "--listen", f"127.0.0.1:{port}", "--nats", own_server.url)
        process = await asyncio.create_subprocess_exec(sys.executable, *command)
        try:
            async with reading(f"http://127.0.0.1:{port}", "from=start") as reader:
                await publish(connection, StreamDeclaration(), make_events(3))
                await eventually(partial(reader.has, 3))
                process.terminate()
                assert await asyncio.wait_for(process.wait(), 180) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def test_token_is_required() -> None:
    """Without a token the gateway does not start on a public address."""
    done = run("serve", "--listen", "0.0.0.0:0")

    assert done.returncode == 2
    assert b"--token-file, gateway.token_file: required" in done.stderr
