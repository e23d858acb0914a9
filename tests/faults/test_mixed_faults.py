"""
Projectors, nats-server and Postgres are killed in turn, each while the others recover.

Short by default: 6,000 events and 3 kills.  `make faults-tests` sets `NOETL_FAULTS=long`: 200,000 events and 30 kills,
three minutes.  `NOETL_SEED` repeats the victims and times.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Protocol

import pytest
import structlog

from consumers.sinks.postgres import create_schema
from consumers.verification.readback import stored_keys
from noetl_events.jetstream.declarations import DEAD_LETTERS
from noetl_events.jetstream.streams import show_stream
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_events
from tests.faults.load import emit_until_taken
from tests.faults.processes import projecting
from tests.faults.rows import Counter

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from noetl_events.jetstream.connection import Connection
    from noetl_events.testing.nats_server import NatsServer
    from noetl_events.testing.postgres_server import PostgresServer

LONG = os.environ.get("NOETL_FAULTS") == "long"
EVENTS, KILLS = (200_000, 30) if LONG else (6_000, 3)
CHUNK = 500
AHEAD = 4_000
ACK_WAIT = 2.0
VICTIMS = ("projector 0", "projector 1", "nats-server", "postgres")

log = structlog.get_logger()

pytestmark = pytest.mark.timeout(1800)


class Mortal(Protocol):
    """A process that can be killed and started again."""

    def start(self) -> None:
        """Start the process."""

    def kill(self) -> None:
        """Kill the process."""


class Replica:
    """A projector that is restarted after each kill, and only then."""

    def __init__(self, server: NatsServer, to: str, lines: Path) -> None:
        self._start = partial(projecting, server, to, log=lines, settings={"NOETL_ACK_WAIT_SECS": str(ACK_WAIT)})
        self._stack = AsyncExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process."""
        self._process = self._stack.enter_context(self._start())

    def kill(self) -> None:
        """Kill the process, unless it ended by itself, which is a failure."""
        assert self.lives
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @property
    def lives(self) -> bool:
        """True if the process has not ended by itself."""
        return self._process is not None and self._process.poll() is None

    async def aclose(self) -> None:
        """Kill the process without a restart."""
        await self._stack.aclose()


async def publish(connection: Connection, counter: Counter) -> None:
    """Store all events in the stream, never far ahead of the arrivals, so that faults meet traffic."""
    sink = NatsSink(connection)
    for start in range(1, EVENTS + 1, CHUNK):
        await eventually(partial(counter.has_seen, start - AHEAD))
        await emit_until_taken(sink, make_events(CHUNK, start=start))
    await sink.aclose()


async def test_everything_dies(
    own_server: NatsServer, own_connection: Connection, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    """Every event is one row, there is no dead letter, and all rows are there soon after the last fault."""
    seed = int(os.environ.get("NOETL_SEED", random.SystemRandom().randrange(10**6)))
    chance = random.Random(seed)
    moments = sorted(chance.sample(range(EVENTS // 20, EVENTS - AHEAD // 2), KILLS))
    url = own_postgres.url
    await create_schema(url)
    replicas = [Replica(own_server, url, tmp_path / f"log{number}") for number in range(2)]
    victims: dict[str, Mortal] = dict(zip(VICTIMS, (*replicas, own_server, own_postgres), strict=True))
    counter = Counter(url)
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        for replica in replicas:
            stack.push_async_callback(replica.aclose)
            replica.start()
        publishing = asyncio.create_task(publish(own_connection, counter))
        for moment in moments:
            await eventually(partial(counter.reaches, moment), what=f"seed {seed}: {moment} rows")
            name = chance.choice(VICTIMS)
            await asyncio.to_thread(victims[name].kill)
            await asyncio.to_thread(victims[name].start)
            log.info("killed", seed=seed, rows=counter.rows, what=name)
        last_fault = time.monotonic()
        await eventually(partial(counter.reaches, EVENTS), timeout=ACK_WAIT + 5 if LONG else 180, what=f"seed {seed}")
        await publishing
        log.info("recovered", kills=KILLS, within=last_fault - began, after=time.monotonic() - last_fault)
        assert all(replica.lives for replica in replicas), f"seed {seed}"

    assert sorted(event_id for _, event_id in await stored_keys(url)) == list(range(1, EVENTS + 1)), f"seed {seed}"
    assert (await show_stream(own_connection, DEAD_LETTERS.name)).state.messages == 0
