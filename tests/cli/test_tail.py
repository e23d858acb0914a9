"""`noetl-events tail` through failures of servers, consumers and streams: it shows every stored event, or ends."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_events
from tests.cli.command import run, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from multiprocessing.context import ForkServerProcess
    from pathlib import Path

    from noetl_events.testing.nats_server import NatsServer

STREAM = StreamDeclaration()


class Tail:
    """A running tail, and its output."""

    def __init__(self, folder: Path, server: NatsServer) -> None:
        self._shown = folder / "shown"
        self.log = folder / "log"
        self.log.touch()
        self._shown.touch()
        files = [folder / "stdin", self._shown, self.log]
        files[0].touch()
        self.process: ForkServerProcess = start(["tail", "--json"], server.url, files)

    @property
    def ids(self) -> list[int]:
        """The ids of the printed events."""
        return [json.loads(line)["event_id"] for line in self._shown.read_text().splitlines()]

    def shows(self, *ids: int) -> bool:
        """Return true if exactly these events were printed."""
        return self.ids == list(ids)


async def store(connection: Connection, first: int, count: int) -> None:
    """Store *count* events with ids from *first* on."""
    sink = NatsSink(connection, timeout=20.0)
    await sink.emit_batch(make_events(count, start=first))
    await sink.aclose()


async def has_consumer(connection: Connection) -> bool:
    """Return true if the tail has a consumer."""
    return bool(await (await jetstream(connection)).consumers_info(STREAM.name))


@asynccontextmanager
async def tailing(folder: Path, server: NatsServer) -> AsyncIterator[tuple[Tail, Connection]]:
    """Run a tail that has printed event 1 of the stream."""
    async with Connection(ConnectOptions(servers=server.url)) as connection:
        await ensure_stream(connection, STREAM)
        tail = Tail(folder, server)
        try:
            await eventually(lambda: has_consumer(connection))
            await store(connection, 1, 1)
            await eventually(lambda: tail.shows(1))
            yield tail, connection
        finally:
            tail.process.kill()
            tail.process.join()


async def test_server_restarts(tmp_path: Path, own_server: NatsServer) -> None:
    """After a restart of the server, which has lost the consumer, tail continues behind the last printed event."""
    async with tailing(tmp_path, own_server) as (tail, connection):
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.start)
        await eventually(lambda: connection.is_connected)
        await store(connection, 2, 3)
        await eventually(lambda: tail.shows(1, 2, 3, 4), timeout=180)


async def test_consumer_is_deleted(tmp_path: Path, own_server: NatsServer) -> None:
    """A deleted consumer is created again, behind the last printed event."""
    async with tailing(tmp_path, own_server) as (tail, connection):
        js = await jetstream(connection)
        for info in await js.consumers_info(STREAM.name):
            await js.delete_consumer(STREAM.name, info.name)
        await store(connection, 2, 3)
        await eventually(lambda: tail.shows(1, 2, 3, 4), timeout=180)


async def test_stream_is_created_anew(tmp_path: Path, own_server: NatsServer) -> None:
    """Every event of a stream created again is printed, and the replacement is logged."""
    async with tailing(tmp_path, own_server) as (tail, connection):
        await (await jetstream(connection)).delete_stream(STREAM.name)
        await ensure_stream(connection, STREAM)
        await store(connection, 11, 4)
        await eventually(lambda: tail.shows(1, 11, 12, 13, 14), timeout=180)

        assert "tail.stream_replaced" in tail.log.read_text()


async def test_stream_is_away_for_a_while(tmp_path: Path, own_server: NatsServer) -> None:
    """A deleted stream is waited for, with a line that says so, and printed from its first event on."""
    async with tailing(tmp_path, own_server) as (tail, connection):
        await (await jetstream(connection)).delete_stream(STREAM.name)
        await eventually(lambda: "does not exist" in tail.log.read_text(), timeout=180)
        await ensure_stream(connection, STREAM)
        await store(connection, 11, 2)
        await eventually(lambda: tail.shows(1, 11, 12), timeout=180)


async def test_stream_loses_its_end(tmp_path: Path, own_server: NatsServer) -> None:
    """If a restored stream ends before the last printed event, tail ends with 1 and the reason."""
    store_now, store_then = tmp_path / "nats" / "jetstream", tmp_path / "then"
    async with tailing(tmp_path, own_server) as (tail, connection):
        await asyncio.to_thread(own_server.terminate)
        shutil.copytree(store_now, store_then)
        await asyncio.to_thread(own_server.start)
        await store(connection, 2, 2)
        await eventually(lambda: tail.shows(1, 2, 3), timeout=180)
        await asyncio.to_thread(own_server.terminate)
        shutil.rmtree(store_now)
        shutil.copytree(store_then, store_now)
        await asyncio.to_thread(own_server.start)
        await asyncio.to_thread(tail.process.join, 180)

        assert tail.process.exitcode == 1
        assert "has lost its end" in tail.log.read_text()


def test_stream_that_is_missing_at_the_start(own_server: NatsServer) -> None:
    """Without a stream tail ends with 1 and the remedy."""
    done = run("tail", nats=own_server.url)

    assert done.returncode == 1
    assert b"noetl-events stream ensure" in done.stderr


def test_nats_that_is_away_at_the_start() -> None:
    """Without NATS tail ends with 1, and does not wait for it."""
    done = run("tail")

    assert done.returncode == 1
    assert b"refuses the connection: nothing listens there" in done.stderr


async def test_told_to_stop(tmp_path: Path, own_server: NatsServer) -> None:
    """SIGTERM ends tail at once with 0, also without NATS, as nothing is in flight."""
    async with tailing(tmp_path, own_server) as (tail, connection):
        await asyncio.to_thread(own_server.kill)
        await eventually(lambda: not connection.is_connected)
        await eventually(lambda: "connection.lost" in tail.log.read_text())
        assert tail.process.pid is not None
        os.kill(tail.process.pid, signal.SIGTERM)
        await asyncio.to_thread(tail.process.join, 20)

        assert tail.process.exitcode == 0
