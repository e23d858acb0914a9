"""
Rows that Postgres refuses, through the whole projector: they are found, dead-lettered, and delay no other event.

Short by default; `make faults-tests` sets `NOETL_FAULTS=long`.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
import structlog

from consumers.sinks.postgres import create_schema
from consumers.verification.readback import stored_keys
from noetl_events.jetstream.declarations import DEAD_LETTERS
from noetl_events.jetstream.streams import show_stream
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_event
from tests.faults.processes import ended, projecting
from tests.faults.rows import Counter

if TYPE_CHECKING:
    from pathlib import Path

    from noetl_events.jetstream.connection import Connection
    from noetl_events.testing.nats_server import NatsServer
    from noetl_events.testing.postgres_server import PostgresServer

LONG = os.environ.get("NOETL_FAULTS") == "long"

log = structlog.get_logger()

pytestmark = pytest.mark.timeout(1800)


WHERE = [
    pytest.param(1_000, [1], id="first"),
    pytest.param(1_000, [500], id="middle"),
    pytest.param(1_000, [1_000], id="last"),
    pytest.param(10_000, list(range(50, 10_001, 100)), id="100 of 10,000"),
]


@pytest.mark.parametrize(("count", "poison"), WHERE if LONG else WHERE[-1:])
async def test_poison_rows_are_buried_and_their_neighbours_pass(
    own_server: NatsServer,
    own_connection: Connection,
    own_postgres: PostgresServer,
    tmp_path: Path,
    count: int,
    poison: list[int],
) -> None:
    """Each event with a NUL, which JSON may hold and Postgres cannot, is a dead letter; all others are rows."""
    url = own_postgres.url
    await create_schema(url)
    sink = NatsSink(own_connection)
    bad, counter = set(poison), Counter(url)
    await sink.emit_batch(
        [make_event(n, context={"text": "a\0b"} if n in bad else {"n": n}) for n in range(1, count + 1)]
    )
    await sink.aclose()

    async def is_over() -> bool:
        dead = (await show_stream(own_connection, DEAD_LETTERS.name)).state.messages
        return dead >= len(bad) and await counter.reaches(count - len(bad))

    with projecting(own_server, url, log=tmp_path / "log") as process:
        began = time.monotonic()
        await eventually(is_over)
        log.info("buried", events=count, poison=len(bad), seconds=round(time.monotonic() - began, 2))
        process.terminate()
        assert await ended(process) == 0

    assert sorted(event_id for _, event_id in await stored_keys(url)) == [
        number for number in range(1, count + 1) if number not in bad
    ]
    assert (await show_stream(own_connection, DEAD_LETTERS.name)).state.messages == len(bad)
