"""Read and change a database without the sink, over a separate connection."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import asyncpg
from msgspec import Raw

from consumers.sinks.postgres.rows import PLAIN
from noetl_events import ExecutorEvent

PAYLOADS = ("context", "meta")


async def fetch(url: str, query: str) -> list[Any]:
    """Return the rows of *query*, read over a separate connection."""
    connection = await asyncpg.connect(url)
    try:
        rows: list[Any] = await connection.fetch(query)
    finally:
        await connection.close()
    return rows


async def execute(url: str, statement: str) -> None:
    """Execute *statement* over a separate connection."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def stored_events(url: str) -> list[ExecutorEvent]:
    """Return the events of the table, in the order they were inserted."""
    rows = await fetch(url, f"SELECT {', '.join(PLAIN.columns)} FROM noetl.event ORDER BY ctid")
    return [event_of(dict(row)) for row in rows]


def event_of(row: dict[str, Any]) -> ExecutorEvent:
    """Return the event of a row; jsonb writes a blank after each comma and colon."""
    payloads = {name: row[name] and Raw(row[name].replace(": ", ":").replace(", ", ",").encode()) for name in PAYLOADS}
    return ExecutorEvent(**row | payloads | {"created_at": row["created_at"].astimezone(UTC)})


async def is_left_alone(url: str) -> bool:
    """Return true if every session of the sink has ended."""
    sessions = "SELECT FROM pg_stat_activity WHERE application_name = 'noetl-events' AND datname = current_database()"
    return not await fetch(url, sessions)
