"""Power cuts and full disks, on small separate disks: events acknowledged as synced are there afterwards."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from noetl_events import SinkUnavailable, open_sink
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_events
from noetl_events.testing.nats_server import NatsServer
from tests.faults.disk import Disk, can_mount
from tests.faults.load import STREAM, Load, read_all, require_exactly_once
from tests.faults.test_spool_faults import noted, working

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from pathlib import Path

    from noetl_events import EventSink, ExecutorEvent

LONG = os.environ.get("NOETL_FAULTS") == "long"
CUTS = 5
SYNCED = "jetstream { sync_interval: always }"

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not can_mount(), reason="needs root, ext4 and loop devices"),
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Return a disk of 128 MB."""
    with Disk(tmp_path / "disk") as mounted:
        yield mounted


@contextmanager
def power_cut(disk: Disk) -> Iterator[None]:
    """Cut the power of *disk*; processes with files on it have to end meanwhile."""
    disk.cut_power()
    yield
    disk.unmount()
    disk.mount()


@asynccontextmanager
async def loaded(server: NatsServer) -> AsyncIterator[tuple[NatsSink, Load]]:
    """Let a sink wait for the disk of *server* under load; in the end its events are stored again."""
    async with Connection(ConnectOptions(servers=server.url)) as connection:
        await ensure_stream(connection, STREAM)
        sink = NatsSink(connection, durable="fsync", timeout=3.0)
        load = Load(sink)
        load.start(size=7)
        yield sink, load
        await load.progress(200)
        await load.stop()
        await sink.aclose()


async def drain(spool: Path, url: str) -> None:
    """Forward the events in *spool*."""
    command = [sys.executable, "-m", "consumers", "spool", "drain", str(spool), "--to", url]
    drained = await asyncio.to_thread(subprocess.run, command, check=False, capture_output=True)
    assert drained.returncode == 0, drained.stderr


async def emit_each(sink: EventSink, batches: Iterable[list[ExecutorEvent]]) -> None:
    """Emit the batches one after the other."""
    for batch in batches:
        await sink.emit_batch(batch)


async def test_unsynced_bytes_are_lost(disk: Disk) -> None:
    """The simulated power cut loses written data that was not synced, and keeps synced data."""
    kept, lost = disk.folder / "kept", disk.folder / "lost"
    with kept.open("wb") as file:
        file.write(b"synced")
        file.flush()
        os.fsync(file.fileno())
    lost.write_bytes(b"not synced")
    with power_cut(disk):
        pass

    assert kept.read_bytes() == b"synced"
    assert not lost.exists() or lost.read_bytes() != b"not synced"


@pytest.mark.usefixtures("own_connection")
async def test_power_cut_of_the_spool(disk: Disk, own_server: NatsServer, tmp_path: Path) -> None:
    """The pod's disk repeatedly loses power during an outage of NATS: each completed emit arrives, once."""
    spool, note = disk.folder / "spool", tmp_path / "note"
    url = f"spool://{spool}?to={quote(own_server.url, safe='')}"
    own_server.kill()
    returned: set[int] = set()
    for lane in range(CUTS):
        before = len(noted(note))
        with working(url, lane, note) as process:
            await eventually(lambda before=before: len(noted(note)) >= before + 200)  # type: ignore[misc]
            # Later syncs do not count: an fsync after the aborted transaction is gone returns 0 (jbd2).
            returned.update(noted(note)[before:])
            with power_cut(disk):
                process.kill()
                process.wait()
    own_server.start()
    await drain(spool, own_server.url)

    assert len(returned) >= CUTS * 200
    await require_exactly_once(own_server.url, sorted(returned))


async def test_power_cut_of_a_broker_that_syncs(disk: Disk) -> None:
    """The only server loses power under load: events acknowledged with durable="fsync" are in the stream, once."""
    with NatsServer(store_dir=disk.folder / "nats", config=SYNCED) as server:
        async with loaded(server) as (_, load):
            for _ in range(CUTS):
                await load.progress(200)
                with power_cut(disk):
                    server.kill()
                server.start()
        await require_exactly_once(server.url, load.acknowledged)


@pytest.mark.usefixtures("own_connection")
async def test_full_disk_of_the_spool(disk: Disk, own_server: NatsServer) -> None:
    """On a full disk an emit is refused completely; with room it works, and all accepted events arrive once."""
    spool, events = disk.folder / "spool", make_events(300)
    own_server.kill()
    sink = open_sink(f"spool://{spool}?to={quote(own_server.url, safe='')}")
    await sink.emit_batch(events[:100])
    disk.fill()
    with pytest.raises(SinkUnavailable, match="No space left"):
        await emit_each(sink, [[event] for event in events[100:]])
    disk.free()
    await sink.emit_batch(events)
    own_server.start()
    await sink.aclose()
    await drain(spool, own_server.url)

    await require_exactly_once(own_server.url, [event.event_id or 0 for event in events])


async def test_full_disk_of_the_broker(disk: Disk) -> None:
    """A server with a full disk refuses messages; with room, and restarted, it has all it acknowledged."""
    with NatsServer(store_dir=disk.folder / "nats", config=SYNCED) as server:
        async with loaded(server) as (sink, load):
            await load.progress(200)
            disk.fill()
            with pytest.raises(SinkUnavailable):
                await emit_each(sink, (make_events(20, start=10**9 + number * 20) for number in range(10_000)))
            disk.free()
            server.kill()
            server.start()
        stored = [event.event_id for event in await read_all(server.url, STREAM.name)]

    assert len(set(stored)) == len(stored)
    assert set(load.acknowledged) <= set(stored)
