"""Read a destination around its sink: the keys it really holds."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from urllib.parse import urlsplit

Key = tuple[int, int]
"""execution_id and event_id."""

CHECKABLE = ("sqlite", "postgresql", "postgres", "jsonl")


async def stored_keys(url: str) -> list[Key]:
    """
    Return the key of every event at *url*, one for each row or line.

    Raises:
        ValueError: this kind of destination cannot be read back.

    """
    scheme = urlsplit(url).scheme
    if scheme == "sqlite":
        return await asyncio.to_thread(_from_sqlite, url)
    if scheme in ("postgresql", "postgres"):
        return await _from_postgres(url)
    if scheme == "jsonl":
        return await asyncio.to_thread(_from_jsonl, url)
    raise ValueError(f"to: {scheme!r} cannot be read back and checked; use one of {', '.join(CHECKABLE)}")


def _from_sqlite(url: str) -> list[Key]:
    path = urlsplit(url).path[1:]
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT execution_id, event_id FROM event").fetchall()


async def _from_postgres(url: str) -> list[Key]:
    import asyncpg  # noqa: PLC0415  (an extra; the demo with SQLite does without)

    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT execution_id, event_id FROM noetl.event")
    finally:
        await connection.close()
    return [(row[0], row[1]) for row in rows]


def _from_jsonl(url: str) -> list[Key]:
    from noetl_events.sinks.jsonl import read_jsonl  # noqa: PLC0415  (see above)

    return [(event.execution_id, event.event_id or 0) for event in read_jsonl(urlsplit(url).path)]
