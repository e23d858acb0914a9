"""Events as rows of a SQLite file."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import unquote, urlsplit

from noetl_events.envelope import MalformedEvent, checked
from noetl_events.jetstream.options import redacted
from noetl_events.sink import EventsRejected, SinkUnavailable, require_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events.envelope import ExecutorEvent

_BUSY_TIMEOUT: Final = 5.0

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS event (
    execution_id INTEGER NOT NULL,
    event_id INTEGER NOT NULL,
    event_type TEXT NOT NULL,
    step TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at TEXT NOT NULL,
    context TEXT NOT NULL,
    worker_id TEXT,
    meta TEXT,
    PRIMARY KEY (execution_id, event_id)
)
"""
# Only the key makes a double: INSERT OR IGNORE would also drop a row for a NULL or a CHECK, in silence.
_INSERT: Final = """
INSERT INTO event (execution_id, event_id, event_type, step, status, created_at, context, worker_id, meta)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (execution_id, event_id) DO NOTHING
"""


class SqliteSink:
    """
    Insert each event into the table `event` of a SQLite file, once; a batch is one transaction.

    The file and its table are made at the first emit.  `created_at` is RFC 3339 in UTC with six fraction digits, so
    that it sorts; `context` and `meta` are JSON text.  The journal is a WAL, synced at every commit.

    Args:
        path: of the file; its folder must exist.

    """

    def __init__(self, path: str) -> None:
        self._path = path
        # SQLite blocks: one thread of its own keeps the loop free and the writes in order.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._database: sqlite3.Connection | None = None
        self._closed = False

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Open `sqlite:///relative.db` or `sqlite:////absolute.db`."""
        return cls(path_of(url))

    async def emit(self, event: ExecutorEvent) -> None:
        """Insert *event*."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """
        Insert *events*; see `EventSink` for what is raised.

        Raises:
            sqlite3.DatabaseError: the file is no database, or its table `event` is another one.

        """
        if self._closed:
            raise RuntimeError("SqliteSink is closed")
        rows, reasons = _rows(events)
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._insert, rows)
        except sqlite3.OperationalError as exc:
            if "no column" in str(exc) or "no such" in str(exc):
                raise
            raise SinkUnavailable(f"{self._path}: {exc}") from exc
        if reasons:
            raise EventsRejected(reasons)

    async def aclose(self) -> None:
        """Finish the insert under way and close the file."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)

    def _insert(self, rows: list[tuple[Any, ...]]) -> None:
        database = self._database or self._open()
        with database:
            database.executemany(_INSERT, rows)

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute(_TABLE)
        except sqlite3.Error:
            database.close()
            raise
        self._database = database
        return database

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()


def path_of(url: str) -> str:
    """
    Return the file that `sqlite:///relative.db` or `sqlite:////absolute.db` names.

    Raises:
        ValueError: the URL has a host, a query or no path.

    """
    parts = urlsplit(url)
    path = parts.path.removeprefix("/")
    if parts.netloc or parts.query or not path:
        raise ValueError(f"sink URL: {redacted(url)!r} is not sqlite:///relative.db or sqlite:////absolute.db")
    return unquote(path)


def _rows(events: Sequence[ExecutorEvent]) -> tuple[list[tuple[Any, ...]], dict[int, str]]:
    rows: list[tuple[Any, ...]] = []
    reasons: dict[int, str] = {}
    for place, (event_id, event) in enumerate(zip(require_ids(events), events, strict=True)):
        try:
            rows.append(_row(event_id, event))
        except MalformedEvent as exc:
            reasons[place] = str(exc)
    return rows, reasons


def _row(event_id: int, event: ExecutorEvent) -> tuple[Any, ...]:
    event = checked(event)
    return (
        event.execution_id,
        event_id,
        event.event_type,
        event.step,
        event.status,
        event.created_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        bytes(event.context).decode(),
        event.worker_id,
        None if event.meta is None else bytes(event.meta).decode(),
    )
