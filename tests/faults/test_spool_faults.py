"""The spool while its process and its server are killed: every spooled event arrives, once."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.streams import ensure_stream, show_stream
from noetl_events.sinks.nats import NatsSink
from noetl_events.sinks.spool.sink import SpoolSink
from noetl_events.testing import eventually, make_event, make_events
from tests.faults.load import STREAM, read_all, require_exactly_once

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from noetl_events.jetstream.connection import Connection
    from noetl_events.testing.nats_server import NatsServer

LONG = os.environ.get("NOETL_FAULTS") == "long"
KILLS = 10 if LONG else 4

pytestmark = pytest.mark.timeout(1800)


@contextmanager
def working(url: str, lane: int, note: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker with a spool, and kill it in the end."""
    command = [sys.executable, "-m", "tests.faults.spooling_worker", url, str(lane), str(note)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def noted(note: Path) -> list[int]:
    """Return the ids with a completed emit; the kill may have cut the last line."""
    return [int(line) for line in note.read_text().split("\n")[:-1]] if note.exists() else []


async def test_killed_workers_lose_nothing(own_server: NatsServer, own_connection: Connection, tmp_path: Path) -> None:
    """Workers killed (-9) at any time, some during an outage of NATS: spooled events are stored once, in order."""
    seed = int(os.environ.get("NOETL_SEED", random.SystemRandom().randrange(10**6)))
    moments = random.Random(seed)
    spool, note = tmp_path / "spool", tmp_path / "note"
    url = f"spool://{spool}?to={quote(own_server.url, safe='')}"
    for lane in range(KILLS):
        away = lane % 3 == 1
        if away:
            own_server.kill()
        before = len(noted(note))
        with working(url, lane, note) as process:
            goal = before + moments.randrange(1, 400)
            await eventually(lambda goal=goal: len(noted(note)) >= goal, what=f"seed {seed}")  # type: ignore[misc]
            process.kill()
        if away:
            own_server.start()
    drained = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "consumers", "spool", "drain", str(spool), "--to", own_server.url],
        check=False,
        capture_output=True,
    )
    assert drained.returncode == 0, drained.stderr

    assert len(noted(note)) > KILLS
    await require_exactly_once(own_server.url, noted(note))


async def test_stream_created_again(own_server: NatsServer, own_connection: Connection, tmp_path: Path) -> None:
    """A stream that was deleted and created again holds every event of the replay window."""
    sink = SpoolSink(NatsSink(own_connection), tmp_path / "spool", owns_inner=True)
    await sink.emit_batch(make_events(200))
    await sink.drained()
    await (await jetstream(own_connection)).delete_stream(STREAM.name)
    await ensure_stream(own_connection, StreamDeclaration())
    await sink.emit(make_event(201))
    await eventually(lambda: has_messages(own_connection, 201))
    await sink.aclose()

    assert sorted(event.event_id or 0 for event in await read_all(own_server.url, STREAM.name)) == list(range(1, 202))


async def test_server_that_lost_its_end(own_server: NatsServer, own_connection: Connection, tmp_path: Path) -> None:
    """A server that lost acknowledged messages, as in a power cut, gets them again."""
    store = tmp_path / "nats"
    sink = SpoolSink(NatsSink(own_connection), tmp_path / "spool", owns_inner=True)
    await sink.emit_batch(make_events(100))
    await sink.drained()
    own_server.kill()
    shutil.copytree(store, tmp_path / "copy")
    own_server.start()
    await sink.emit_batch(make_events(100, start=101))
    await sink.drained()
    own_server.kill()
    shutil.rmtree(store)
    shutil.copytree(tmp_path / "copy", store)
    own_server.start()
    await eventually(lambda: has_messages(own_connection, 200))
    await sink.aclose()

    await require_exactly_once(own_server.url, list(range(1, 201)))


async def has_messages(connection: Connection, count: int) -> bool:
    """Return true if the stream has at least *count* messages."""
    try:
        return (await show_stream(connection, STREAM.name)).state.messages >= count
    except NatsUnavailable:
        return False
