"""
Fifty processes with the same worker id, through a stream and a projector into Postgres.

Short by default: 2,000 events.  `make faults-tests` sets `NOETL_FAULTS=long`: 200,000 events with distinct ids,
five times, and 20,000 with colliding ids, nearly all of which become dead letters.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from consumers.dead_letters.store import DeadLetterReader, LetterFilter
from consumers.sinks.postgres import PostgresSink, create_schema
from noetl_events import decode
from noetl_events.identity import digest
from noetl_events.testing import eventually
from tests.jetstream import many_workers
from tests.projector.conftest import bench
from tests.sinks.conftest import database_url, postgres_url
from tests.sinks.postgres_database import fetch

if TYPE_CHECKING:
    from consumers.projector.projector import Projector
    from tests.projector.bench import Bench

__all__ = ["bench", "database_url", "postgres_url"]

LONG = os.environ.get("NOETL_FAULTS") == "long"
PROCESSES = 50
OWN, COLLIDING = (4_000, 400) if LONG else (40, 40)

pytestmark = pytest.mark.timeout(1800)


async def emit_from_all(url: str, bench: Bench, kind: str, each: int) -> None:
    """Emit *each* events from every process, and return when each emit has returned."""
    program, subject = many_workers.__file__, f"{bench.stream.name}.{{event_type}}"
    arguments = (program, url, subject, kind, str(PROCESSES), str(each))
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=Path(__file__).parents[2])

    assert await process.wait() == 0


def is_done(projector: Projector, each: int) -> bool:
    """Return true if *projector* has received all emitted events, and has none in flight."""
    return projector.in_flight == 0 and projector.progress.received >= PROCESSES * each


@pytest.mark.parametrize("run", range(5 if LONG else 1))
async def test_own_ids_of_fifty_processes_do_not_collide(
    nats_url: str, bench: Bench, database_url: str, run: int
) -> None:
    """There are as many rows as emits, and no dead letter, although all processes have one worker id."""
    await create_schema(database_url)
    sink = PostgresSink(database_url)
    async with bench.projecting(sink) as projector:
        await emit_from_all(nats_url, bench, "forked", OWN)
        await eventually(lambda: is_done(projector, OWN), timeout=300)
    await sink.aclose()
    [[rows]] = await fetch(database_url, "SELECT count(*) FROM noetl.event")

    print(f"run {run}: {rows} rows, {projector.progress.dead_letters} dead letters, {sink.variants} variants")  # noqa: T201
    assert (rows, projector.progress.dead_letters, sink.variants) == (PROCESSES * OWN, 0, 0)


async def test_colliding_ids_of_fifty_processes_lose_nothing(nats_url: str, bench: Bench, database_url: str) -> None:
    """Each event with a colliding id is a row or a dead letter `conflict`, with its bytes."""
    await create_schema(database_url)
    sink = PostgresSink(database_url)
    async with bench.projecting(sink) as projector:
        await emit_from_all(nats_url, bench, "colliding", COLLIDING)
        await eventually(
            lambda: projector.in_flight == 0 and projector.progress.received >= PROCESSES * COLLIDING, timeout=600
        )
    await sink.aclose()
    rows = {row["digest"] for row in await fetch(database_url, "SELECT digest FROM noetl.event")}
    graveyard = DeadLetterReader(bench.connection, stream=bench.dead.name)
    async with aclosing(graveyard.letters(LetterFilter(execution=543942402780693277))) as letters:
        buried = {digest(decode(letter.body)): letter.kind async for letter in letters}

    print(f"{len(rows)} rows, {len(buried)} dead letters")  # noqa: T201
    assert not rows & buried.keys()
    assert len(rows) + len(buried) == PROCESSES * COLLIDING
    assert set(buried.values()) == {"conflict"}
