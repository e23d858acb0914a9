"""
The whole path over HTTP while its gateway is killed: every accepted event is a row, once.

A worker with `HttpSink`, a gateway, the stream, a projector and a Postgres, each a process of its own.  With
`make faults-tests` there are 100,000 events and five kills; `NOETL_SEED` repeats their times.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
import pytest

from consumers.sinks.postgres import create_schema
from noetl_events.jetstream.declarations import DEAD_LETTERS
from noetl_events.jetstream.streams import show_stream
from noetl_events.testing import eventually
from noetl_events.testing.server_process import free_port
from tests.faults.load import require_exactly_once
from tests.faults.processes import ended, projecting
from tests.faults.rows import Counter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from noetl_events.jetstream.connection import Connection
    from noetl_events.testing.nats_server import NatsServer
    from noetl_events.testing.postgres_server import PostgresServer

LONG = os.environ.get("NOETL_FAULTS") == "long"
EVENTS, KILLS = (100_000, 5) if LONG else (6_000, 2)

pytestmark = pytest.mark.timeout(1800)


@contextmanager
def serving(server: NatsServer, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `noetl-events serve`, and kill it in the end."""
    command = [sys.executable, "-m", "consumers", "serve", "--listen", f"127.0.0.1:{port}", "--nats", server.url]
    with log.open("ab") as lines, subprocess.Popen(command, stderr=lines) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def posting(url: str, note: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker that posts until every event is accepted."""
    command = [sys.executable, "-m", "tests.faults.posting_worker", url, str(EVENTS), str(note)]
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.kill()


def taken(note: Path) -> list[int]:
    """Return the ids that the gateway has accepted."""
    return [int(line) for line in note.read_text().split("\n")[:-1]] if note.exists() else []


async def test_gateway_killed_at_random_moments(
    own_server: NatsServer, own_connection: Connection, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    """A gateway killed (-9) repeatedly: each accepted event is stored once, in order, and becomes one row."""
    seed = int(os.environ.get("NOETL_SEED", random.SystemRandom().randrange(10**6)))
    moments = sorted(random.Random(seed).sample(range(EVENTS // 50, EVENTS * 9 // 10), KILLS))
    await create_schema(own_postgres.url)
    port, note, log = free_port(), tmp_path / "note", tmp_path / "log"
    url = f"http://127.0.0.1:{port}/api/events?timeout=2"
    with projecting(own_server, own_postgres.url, log=log), posting(url, note) as worker:
        for moment in moments:
            with serving(own_server, port, log) as gateway:
                await eventually(lambda goal=moment: len(taken(note)) >= goal, what=f"seed {seed}")  # type: ignore[misc]
                gateway.kill()
        with serving(own_server, port, log):
            assert await ended(worker, timeout=300) == 0, f"seed {seed}"
        await eventually(partial(Counter(own_postgres.url).reaches, EVENTS), what=f"seed {seed}")

    everything = list(range(1, EVENTS + 1))
    assert sorted(taken(note)) == everything
    await require_exactly_once(own_server.url, taken(note))
    assert sorted(await row_ids(own_postgres.url)) == everything, f"seed {seed}"
    assert (await show_stream(own_connection, DEAD_LETTERS.name)).state.messages == 0


async def row_ids(url: str) -> list[int]:
    """Return the id of each row."""
    connection = await asyncpg.connect(url)
    try:
        return [row[0] for row in await connection.fetch("SELECT event_id FROM noetl.event")]
    finally:
        await connection.close()
