"""The tables of the benchmarks: the sink's own, and NoETL's with its partitions and indexes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg
from msgspec import structs

from consumers.sinks.postgres import create_schema

if TYPE_CHECKING:
    from noetl_events import ExecutorEvent

CATALOG_ID: Final = 7

_NOETL_DDL: Final = Path(__file__).parents[1] / "tests" / "sinks" / "noetl_event.sql"
_SETTINGS: Final = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "shared_buffers",
    "max_wal_size",
)


class Target(NamedTuple):
    """A database with an empty `noetl.event`, and the options of its sink."""

    dsn: str
    table: str

    @property
    def sink_url(self) -> str:
        """The URL of the sink."""
        return f"{self.dsn}?mapping=noetl" if self.table == "noetl" else self.dsn


async def make_target(dsn: str, table: str) -> Target:
    """
    Create the sink's `plain` table, or `noetl`, the one of a NoETL server.

    Raises:
        SystemExit: this checkout has no NoETL table.

    """
    if table == "plain":
        await create_schema(dsn)
        # A method that cannot write these columns omits them without an effect on the others.
        await _execute(
            dsn, "ALTER TABLE noetl.event ALTER context SET DEFAULT '{}', ALTER created_at SET DEFAULT now()"
        )
    elif _NOETL_DDL.exists():
        await _execute(dsn, _NOETL_DDL.read_text())
        await _execute(dsn, "INSERT INTO noetl.catalog VALUES ($1, 'bench')", CATALOG_ID)
    else:
        raise SystemExit(f"--table noetl: {_NOETL_DDL} is missing")
    return Target(dsn, table)


def for_table(table: str, events: list[ExecutorEvent]) -> list[ExecutorEvent]:
    """Return *events* in the form for *table*: a row of NoETL's table belongs to a catalog entry."""
    if table == "plain":
        return events
    return [structs.replace(event, meta={"catalog_id": CATALOG_ID, "attempts": 0}) for event in events]


async def count_rows(dsn: str) -> int:
    """Return the number of rows."""
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM noetl.event"))
    finally:
        await connection.close()


async def clear(dsn: str) -> None:
    """Drop all rows and run a checkpoint, so that no method pays for the one before it."""
    await _execute(dsn, "TRUNCATE noetl.event")
    await _execute(dsn, "CHECKPOINT")


async def settings(dsn: str) -> str:
    """Return the server's settings that decide the speed of its commits."""
    connection = await asyncpg.connect(dsn)
    try:
        return ", ".join([f"{name} {await connection.fetchval(f'SHOW {name}')}" for name in _SETTINGS])
    finally:
        await connection.close()


async def _execute(dsn: str, statement: str, *values: object) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement, *values)
    finally:
        await connection.close()
