"""
Read the rows of a destination, batch by batch, without using its sink.

A row is returned as stored, even if it was edited and is no valid event: its checksum then differs, or cannot be
computed.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, closing
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import quote, urlsplit

from msgspec import Raw

from consumers.sinks import sqlite
from noetl_events.envelope import ExecutorEvent
from noetl_events.sink import SinkUnavailable
from noetl_events.sinks import jsonl

if TYPE_CHECKING:
    from collections.abc import Sequence

Key: TypeAlias = tuple[int, int]
"""The pair of execution_id and event_id."""

Rows: TypeAlias = AsyncGenerator[list[ExecutorEvent], None]

_BATCH: Final = 1_000
_SELECT: Final = (
    "SELECT execution_id, event_id, event_type, step, status, created_at, context, worker_id, meta FROM event"
)


def read_back(url: str) -> Rows:
    """
    Yield the rows of the destination *url*, in any order.

    Close the generator (`contextlib.aclosing`) when leaving early.

    Raises:
        ValueError: this kind of destination cannot be read back.
        SinkUnavailable: while iterating, the destination cannot be read now.

    """
    scheme = urlsplit(url).scheme
    if scheme not in _READERS:
        raise ValueError(f"--to: {scheme or url!r} cannot be read back; use one of {', '.join(_READERS)}")
    return _READERS[scheme](url)


async def stored_keys(url: str) -> list[Key]:
    """Return the key of every row of the destination *url*; raises the errors of `read_back`."""
    async with aclosing(read_back(url)) as batches:
        return [key_of(row) async for rows in batches for row in rows]


def key_of(event: ExecutorEvent) -> Key:
    """Return the key of an event."""
    return event.execution_id, event.event_id or 0


async def _from_sqlite(path: str) -> Rows:
    try:
        # Read-only, so that reading does not create the file.
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, check_same_thread=False)) as database:
            database.text_factory = _text
            cursor = database.execute(_SELECT)
            while rows := await asyncio.to_thread(cursor.fetchmany, _BATCH):
                yield [_event(row) for row in rows]
    except sqlite3.Error as exc:
        raise SinkUnavailable(f"{path}: {exc}") from exc


def _from_postgres(url: str) -> Rows:
    from consumers.sinks.postgres.session import read_table  # noqa: PLC0415  (an extra that other destinations do not need)

    return _events(read_table(url, batch_size=_BATCH))


async def _events(table: AsyncGenerator[list[Any], None]) -> Rows:
    async with aclosing(table) as batches:
        async for rows in batches:
            yield [_event(row) for row in rows]


async def _from_jsonl(path: str) -> Rows:
    events = jsonl.read_jsonl(path, strict=False)
    try:
        while batch := await asyncio.to_thread(lambda: list(islice(events, _BATCH))):
            yield batch
    except OSError as exc:
        raise SinkUnavailable(f"{path}: {exc.strerror}") from exc


_READERS: Final[dict[str, Callable[[str], Rows]]] = {
    "sqlite": lambda url: _from_sqlite(sqlite.path_of(url)),
    "postgresql": _from_postgres,
    "postgres": _from_postgres,
    "jsonl": lambda url: _from_jsonl(jsonl.path_of(url)),
}


def _event(row: Sequence[Any]) -> ExecutorEvent:
    execution_id, event_id, event_type, step, status, created_at, context, worker_id, meta = row
    return ExecutorEvent(
        execution_id=execution_id,
        event_id=event_id,
        event_type=event_type,
        step=step,
        status=status,
        created_at=_time(created_at),
        context=_raw(context),
        worker_id=worker_id,
        meta=None if meta is None else _raw(meta),
    )


def _time(value: Any) -> Any:
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else value
    except (TypeError, ValueError, OverflowError):
        return value


def _raw(value: Any) -> Raw:
    return Raw(value if isinstance(value, bytes) else str(value).encode())


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
