"""The SQLite sink: events as rows of a file."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from urllib.parse import unquote, urlsplit

import structlog
from msgspec import Raw

from noetl_events.canonical_json import means_the_same
from noetl_events.conflicts import Comparison, Likeness, Occurrence, microseconds_of, occurrence_of
from noetl_events.envelope import MalformedEvent, checked, encode_checked
from noetl_events.identity import digest_of_body
from noetl_events.jetstream.connect.servers import redacted
from noetl_events.sink import EventsRejected, SinkUnavailable, require_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events.envelope import ExecutorEvent

_BUSY_TIMEOUT: Final = 5.0

# A file of the first version has no digest.
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
    digest INTEGER,
    PRIMARY KEY (execution_id, event_id)
)
"""
_ADD_DIGEST: Final = "ALTER TABLE event ADD COLUMN digest INTEGER"
_FIND_DIGEST: Final = "SELECT 1 FROM pragma_table_info('event') WHERE name = 'digest' AND upper(type) = 'INTEGER'"
# The conflict target is named, because INSERT OR IGNORE would also drop a row silently for a NULL or a CHECK.
_INSERT: Final = """
INSERT INTO event (execution_id, event_id, event_type, step, status, created_at, context, worker_id, meta{digest})
VALUES (:execution_id, :event_id, :event_type, :step, :status, :created_at, :context, :worker_id, :meta{value})
ON CONFLICT (execution_id, event_id) DO NOTHING
"""
_FIND: Final = """
SELECT event_type, step, created_at, status, worker_id, context, meta, {digest}
FROM event WHERE execution_id = ? AND event_id = ?
"""

log = structlog.get_logger()


class _Row(NamedTuple):
    place: int
    event: ExecutorEvent
    values: dict[str, Any]


class SqliteSink:
    """
    Insert each event into the table `event` of a SQLite file, once; a batch is one transaction.

    An event with an existing key is compared with that row, as `noetl_events.conflicts` describes.

    The first emit creates the file and its table.  `created_at` is RFC 3339 in UTC with six fraction digits, so that it
    sorts; `context` and `meta` are JSON text.  The journal is a WAL, synced at every commit.

    Args:
        path: path of the file; its folder must exist.

    """

    def __init__(self, path: str) -> None:
        self.duplicates = 0
        """Number of events that existed already."""
        self.conflicts = 0
        """Number of events with a key that a different event has."""
        self.variants = 0
        """Number of events that the table has with another payload."""
        self._path = path
        # SQLite blocks, so one thread of its own keeps the loop free and the writes in order.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._database: sqlite3.Connection | None = None
        self._has_digest = False
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
        Insert *events*; see `EventSink` for the errors raised.

        Raises:
            sqlite3.DatabaseError: the file is no database, or its table `event` has another shape.

        """
        if self._closed:
            raise RuntimeError("SqliteSink is closed")
        rows, reasons = _rows(events)
        try:
            unlike = await asyncio.get_running_loop().run_in_executor(self._thread, self._insert, rows)
        except sqlite3.OperationalError as exc:
            if "no column" in str(exc) or "no such" in str(exc):
                raise
            raise SinkUnavailable(f"{self._path}: {exc}") from exc
        conflicts = self._count_conflicts(unlike)
        if reasons or conflicts:
            raise EventsRejected(reasons | conflicts, conflicts=conflicts)

    async def aclose(self) -> None:
        """Finish the insert in progress and close the file."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)

    def _count_conflicts(self, unlike: dict[int, Comparison]) -> dict[int, str]:
        """Count and log the variants, and return the reasons of the conflicts."""
        conflicts = {place: one.reason for place, one in unlike.items() if one.likeness is Likeness.CONFLICT}
        self.conflicts += len(conflicts)
        if variants := [one.key for one in unlike.values() if one.likeness is Likeness.VARIANT]:
            self.variants += len(variants)
            execution_id, event_id = variants[0]
            log.warning("sqlite.variants", events=len(variants), execution_id=execution_id, event_id=event_id)
        return conflicts

    def _insert(self, rows: list[_Row]) -> dict[int, Comparison]:
        """Insert *rows*, and return by batch index the comparisons of those that differ from an existing row."""
        database = self._database or self._open()
        digest, value = (", digest", ", :digest") if self._has_digest else ("", "")
        insert = _INSERT.format(digest=digest, value=value)
        with database:
            if database.executemany(insert, [row.values for row in rows]).rowcount == len(rows):
                return {}
            # A key exists already, so the rows are inserted one by one to find it.
            database.rollback()
            return self._insert_singly(database, insert, rows)

    def _insert_singly(self, database: sqlite3.Connection, insert: str, rows: list[_Row]) -> dict[int, Comparison]:
        find = _FIND.format(digest="digest" if self._has_digest else "NULL")
        unlike: dict[int, Comparison] = {}
        for row in rows:
            if database.execute(insert, row.values).rowcount:
                continue
            found = database.execute(find, (row.values["execution_id"], row.values["event_id"])).fetchone()
            compared = None if found is None else _compare(found, row)
            if compared is not None and compared.likeness is not Likeness.SAME:
                unlike[row.place] = compared
            if compared is None or compared.likeness is not Likeness.CONFLICT:
                self.duplicates += 1
        return unlike

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute(_TABLE)
            self._has_digest = database.execute(_FIND_DIGEST).fetchone() is not None
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
    Return the path that `sqlite:///relative.db` or `sqlite:////absolute.db` names.

    Raises:
        ValueError: the URL has a host, a query or no path.

    """
    parts = urlsplit(url)
    path = parts.path.removeprefix("/")
    if parts.netloc or parts.query or not path:
        raise ValueError(f"sink URL: {redacted(url)!r} is not sqlite:///relative.db or sqlite:////absolute.db")
    return unquote(path)


def create_schema(url: str, *, upgrade: bool = False) -> bool:
    """
    Create the file of *url* and its table if they are missing, and return whether the table has the digest.

    Args:
        url: URL as for `SqliteSink.from_url`.
        upgrade: add the column of the digest to a table of an older version.

    Raises:
        ValueError: *url* is invalid.
        SinkUnavailable: the file cannot be opened or changed now.

    """
    path = path_of(url)
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_TIMEOUT)) as database, database:
            database.execute(_TABLE)
            if upgrade and database.execute(_FIND_DIGEST).fetchone() is None:
                database.execute(_ADD_DIGEST)
            return database.execute(_FIND_DIGEST).fetchone() is not None
    except sqlite3.Error as exc:
        raise SinkUnavailable(f"{path}: {exc}") from exc


def _rows(events: Sequence[ExecutorEvent]) -> tuple[list[_Row], dict[int, str]]:
    rows: list[_Row] = []
    reasons: dict[int, str] = {}
    for place, (event_id, event) in enumerate(zip(require_ids(events), events, strict=True)):
        try:
            rows.append(_row(place, event_id, checked(event)))
        except MalformedEvent as exc:
            reasons[place] = str(exc)
    return rows, reasons


def _row(place: int, event_id: int, event: ExecutorEvent) -> _Row:
    values = {
        "execution_id": event.execution_id,
        "event_id": event_id,
        "event_type": event.event_type,
        "step": event.step,
        "status": event.status,
        "created_at": event.created_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "context": bytes(event.context).decode(),
        "worker_id": event.worker_id,
        "meta": None if event.meta is None else bytes(event.meta).decode(),
        "digest": digest_of_body(encode_checked(event)),
    }
    return _Row(place, event, values)


def _compare(found: tuple[Any, ...], row: _Row) -> Comparison | None:
    """Compare *row* with the one *found* under its key; None if their digests are equal."""
    event_type, step, created_at, status, worker_id, context, meta, digest = found
    if digest == row.values["digest"]:
        return None
    event = row.event
    return Comparison(
        key=(event.execution_id, event.event_id or 0),
        stored=Occurrence(event_type, step, _time(created_at)),
        event=occurrence_of(event),
        same_status=status == event.status,
        same_worker=None in (worker_id, event.worker_id) or worker_id == event.worker_id,
        same_payload=means_the_same(_raw(context), event.context) and means_the_same(_raw(meta), event.meta),
        as_emitted=digest is not None,
    )


def _time(text: Any) -> int | None:
    """Return a stored time in Unix microseconds, None if it is not RFC 3339."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return microseconds_of(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _raw(value: Any) -> Raw | None:
    return None if value is None else Raw(value if isinstance(value, bytes) else str(value).encode())
