"""
The projector while processes and servers are killed: every event once, in order, and no dead letter.

Short by default.  `make faults-tests` sets `NOETL_FAULTS=long` for the full lengths: 50,000 events and 10 kills, a
minute of outage.  `NOETL_SEED` repeats the times of the kills.
"""

from __future__ import annotations

import asyncio
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
from consumers.verification.readback import stored_keys
from noetl_events.jetstream.declarations import DEAD_LETTERS, StreamDeclaration
from noetl_events.jetstream.streams import show_stream
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_events

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from noetl_events.jetstream.connection import Connection
    from noetl_events.testing.nats_server import NatsServer
    from noetl_events.testing.postgres_server import PostgresServer

LONG = os.environ.get("NOETL_FAULTS") == "long"
EVENTS, KILLS, OUTAGE = (50_000, 10, 60.0) if LONG else (6_000, 3, 2.0)
STOPS = 20 if LONG else 3

pytestmark = pytest.mark.timeout(1800)


@contextmanager
def projecting(server: NatsServer, to: str, log: Path, *, ack_wait: str = "2") -> Iterator[subprocess.Popen[bytes]]:
    """Run `noetl-events project` as a process."""
    command = [sys.executable, "-m", "consumers", "project", "--to", to]
    environment = os.environ | {"NATS_URL": server.url, "NOETL_ACK_WAIT_SECS": ack_wait}
    with log.open("ab") as lines, subprocess.Popen(command, env=environment, stderr=lines) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
async def own_database(own_postgres: PostgresServer) -> str:
    """Return a database with an empty table."""
    await create_schema(own_postgres.url)
    return own_postgres.url


async def ids_in_order(url: str) -> list[int]:
    """Return the ids of the rows, in the order they were inserted."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT event_id FROM noetl.event ORDER BY ctid")
    finally:
        await connection.close()
    return [row[0] for row in rows]


async def publish(connection: Connection, count: int, *, start: int = 1) -> None:
    """Store *count* events in the stream, in order."""
    sink = NatsSink(connection)
    await sink.emit_batch(make_events(count, start=start))
    await sink.aclose()


async def test_projector_killed_at_random_moments(
    own_server: NatsServer, own_connection: Connection, own_database: str, tmp_path: Path
) -> None:
    """A projector killed (-9) repeatedly stores every event once, and dead-letters none."""
    seed = int(os.environ.get("NOETL_SEED", random.SystemRandom().randrange(10**6)))
    moments = sorted(random.Random(seed).sample(range(EVENTS // 50, EVENTS * 9 // 10), KILLS))
    publishing = asyncio.create_task(publish(own_connection, EVENTS))
    for moment in moments:
        with projecting(own_server, own_database, tmp_path / "log") as process:
            await eventually(partial(has_rows, own_database, moment), what=f"seed {seed}")
            process.kill()
    await publishing
    with projecting(own_server, own_database, tmp_path / "log"):
        await eventually(lambda: has_rows(own_database, EVENTS), what=f"seed {seed}")

    keys = await stored_keys(own_database)
    assert sorted(event_id for _, event_id in keys) == list(range(1, EVENTS + 1)), f"seed {seed}"
    assert (await show_stream(own_connection, DEAD_LETTERS.name)).state.messages == 0


async def has_rows(url: str, count: int) -> bool:
    """Return true if the table has at least *count* rows."""
    connection = await asyncpg.connect(url)
    try:
        found: int = await connection.fetchval("SELECT count(*) FROM noetl.event")
    finally:
        await connection.close()
    return found >= count


async def test_destination_away(
    own_server: NatsServer,
    own_connection: Connection,
    own_postgres: PostgresServer,
    own_database: str,
    tmp_path: Path,
) -> None:
    """While Postgres is down the projector retries: no dead letter, no restart, order kept, all rows afterwards."""
    log = tmp_path / "log"
    with projecting(own_server, own_database, log) as process:
        await publish(own_connection, 1_000)
        await eventually(lambda: has_rows(own_database, 1_000))
        own_postgres.kill()
        await publish(own_connection, 1_000, start=1_001)
        await asyncio.sleep(OUTAGE)
        assert process.poll() is None, log.read_text()
        own_postgres.start()
        await eventually(lambda: has_rows(own_database, 2_000))
        assert process.poll() is None
        process.terminate()
        assert await asyncio.to_thread(process.wait, 180) == 0

    assert await ids_in_order(own_database) == list(range(1, 2_001))
    assert (await show_stream(own_connection, DEAD_LETTERS.name)).state.messages == 0
    assert log.read_text().count("projector.holding") <= 1 + OUTAGE // 60


async def test_terminated_in_the_middle(
    own_server: NatsServer, own_connection: Connection, own_database: str, tmp_path: Path
) -> None:
    """SIGTERM during a drain ends with exit code 0, and no event is delivered to the next projector again."""
    await publish(own_connection, EVENTS)
    log, stored = tmp_path / "log", 0
    while stored < EVENTS:
        # The server redelivers what a starved process holds for longer than the ack wait, so that is long here.
        with projecting(own_server, own_database, log, ack_wait="120") as process:
            goal = min(stored + EVENTS // STOPS, EVENTS)
            await eventually(partial(has_rows, own_database, goal))
            process.terminate()
            assert await asyncio.to_thread(process.wait, 180) == 0, log.read_text()
            stored = len(await ids_in_order(own_database))
        js = (await own_connection.client()).jetstream()
        await eventually(partial(nothing_unacknowledged, js))

    assert await ids_in_order(own_database) == list(range(1, EVENTS + 1))
    info = await js.consumer_info(StreamDeclaration().name, "noetl_projector")
    assert info.delivered is not None
    # A projector on a starved machine leaves after some seconds, and says that messages were in flight then.
    assert info.delivered.consumer_seq == EVENTS or "puller.left_in_flight" in log.read_text(), "delivered twice"


async def nothing_unacknowledged(js: object) -> bool:
    """Return true if the consumer waits for no acknowledgement."""
    info = await js.consumer_info(StreamDeclaration().name, "noetl_projector")  # type: ignore[attr-defined]
    return bool(info.num_ack_pending == 0 and info.num_redelivered == 0)


async def test_second_signal_is_immediate(
    own_server: NatsServer, own_connection: Connection, own_postgres: PostgresServer, own_database: str, tmp_path: Path
) -> None:
    """A projector that cannot store exits at the second signal with code 1; its events are redelivered."""
    log = tmp_path / "log"
    own_postgres.kill()
    with projecting(own_server, own_database, log) as process:
        await publish(own_connection, 10)
        await eventually(lambda: "projector.holding" in log.read_text())
        process.terminate()
        await eventually(lambda: "daemon.stopping" in log.read_text())
        process.terminate()
        assert await asyncio.to_thread(process.wait, 180) == 1
    own_postgres.start()
    with projecting(own_server, own_database, log):
        await eventually(lambda: has_rows(own_database, 10))
