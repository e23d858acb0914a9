"""
A ledger of the events that a destination must hold, and of the rows that were found there.

The ledger is a temporary SQLite database, about 80 bytes per event.  SQLite writes to the folder for temporary files
once its cache is full, so the memory is bounded for a stream of any length.

Messages with one key count as one event if they are equal, or if they differ in payload and status only: then they are
variants.  A different one is an event of its own, and belongs in the dead letters as a `conflict` if the destination
has the other.
"""

from __future__ import annotations

import sqlite3
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self, TypeAlias

from noetl_events.canonical_json import decode_canonical, encode_canonical

if TYPE_CHECKING:
    from collections.abc import Iterable

    from consumers.verification.readback import Key
    from noetl_events.envelope import ExecutorEvent


def checksum(event: ExecutorEvent) -> int:
    """
    Return a signed 64-bit checksum of all nine fields of *event*; *context* and *meta* are `msgspec.Raw`.

    Raises:
        ValueError: *context* or *meta* is no JSON.
        RecursionError: the JSON is nested deeper than an event's can be.

    """
    context, meta = _payload(event)
    return _number(
        event.execution_id,
        event.event_id,
        event.event_type,
        event.step,
        event.status,
        event.created_at,
        context,
        event.worker_id,
        meta,
    )


def checksum_of_frame(event: ExecutorEvent) -> int:
    """Return a checksum of type, step and worker of *event*."""
    return _number(event.event_type, event.step, event.worker_id)


def checksum_of_payload(event: ExecutorEvent) -> int:
    """
    Return a checksum of status, *context* and *meta* of *event*.

    Raises:
        ValueError: *context* or *meta* is no JSON.
        RecursionError: the JSON is nested deeper than an event's can be.

    """
    return _number(event.status, *_payload(event))


def _payload(event: ExecutorEvent) -> tuple[Any, Any]:
    return decode_canonical(event.context), None if event.meta is None else decode_canonical(event.meta)


def _number(*fields: Any) -> int:
    return int.from_bytes(blake2b(encode_canonical(fields), digest_size=8).digest(), signed=True)


Kind: TypeAlias = Literal["missing", "lost", "different", "duplicates", "dead", "conflicts", "variants"]
Place: TypeAlias = tuple[int, int]
"""Stream sequence of a message, and the time it was stored, in Unix nanoseconds."""


class Expected(NamedTuple):
    """
    A message of the stream, as checksums of its event.

    Args:
        key: key of the event.
        checksum: checksum of the whole event.
        frame: checksum of type, step and worker.
        payload: checksum of status, context and meta.
        time: time of the event, in Unix microseconds.
        place: stream position of the message.

    """

    key: Key
    checksum: int
    frame: int
    payload: int
    time: int
    place: Place


# A key may have several checksums, one per message, so an event is identified by the checksum of its first message.
_TABLES: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
CREATE TABLE expected (
    execution_id INTEGER,
    event_id INTEGER,
    checksum INTEGER,
    frame INTEGER NOT NULL,
    payload INTEGER NOT NULL,
    time INTEGER NOT NULL,
    event INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    stored_ns INTEGER NOT NULL,
    rows INTEGER NOT NULL DEFAULT 0,
    wrong INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (execution_id, event_id, checksum)
) WITHOUT ROWID;
CREATE TABLE dead (sequence INTEGER, stored_ns INTEGER, PRIMARY KEY (sequence, stored_ns)) WITHOUT ROWID;
"""
# The same rules as in `noetl_events.conflicts`, for two events as they were emitted.
_EXPECT: Final = """
INSERT INTO expected (execution_id, event_id, checksum, frame, payload, time, event, sequence, stored_ns)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, coalesce((
    SELECT event FROM expected WHERE execution_id = ?1 AND event_id = ?2 AND frame = ?4
    AND ((payload = ?5 AND abs(time - ?6) <= 1) OR (time = ?6 AND ?6 % 1000 <> 0)) LIMIT 1
), ?3), ?7, ?8) ON CONFLICT DO NOTHING
"""
_EXPECT_DEAD: Final = "INSERT INTO dead VALUES (?, ?) ON CONFLICT DO NOTHING"
_EVENTS: Final = "SELECT checksum, event FROM expected WHERE execution_id = ? AND event_id = ? ORDER BY sequence"
_FIND: Final = """
UPDATE expected SET rows = rows + 1, wrong = wrong + ? WHERE execution_id = ? AND event_id = ? AND event = ?
"""
# One line per event: of several messages the first counts, and a dead letter of any of them.
_LINES: Final = """
WITH events AS (
    SELECT execution_id, event_id, min(sequence) AS sequence, max(rows) AS rows, max(wrong) AS wrong,
           max((sequence, stored_ns) IN (SELECT sequence, stored_ns FROM dead)) AS dead,
           count(DISTINCT payload) AS payloads
    FROM expected GROUP BY execution_id, event_id, event
), keys AS (
    SELECT *, min(sequence) OVER key AS first, sum(rows) OVER key AS key_rows FROM events
    WINDOW key AS (PARTITION BY execution_id, event_id)
)
"""
_CONDITIONS: Final[dict[Kind, str]] = {
    "missing": "rows = 0 AND NOT dead AND key_rows = 0",
    "lost": "rows = 0 AND NOT dead AND key_rows > 0",
    "different": "wrong > 0 AND NOT dead",
    "duplicates": "rows > 1",
    "dead": "rows = wrong AND dead",
    "conflicts": "sequence > first",
    "variants": "payloads > 1",
}
_COUNT: Final = (
    f"{_LINES} SELECT count(*), total(rows), "  # noqa: S608  (the conditions are constants)
    f"{', '.join(f'total({condition})' for condition in _CONDITIONS.values())} FROM keys"
)


class Counts(NamedTuple):
    """The number of expected events, of rows found for them, and of events by kind."""

    events: int
    rows: int
    kinds: dict[Kind, int]


class Ledger:
    """
    Compare expected events with found rows: in a `with` block, record the expected events, then each row, then count.

    Raises:
        sqlite3.OperationalError: from any call: the folder for temporary files is full.

    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(_TABLES)
        # A single transaction, because nothing has to survive the process.
        self._database.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def expect(self, messages: Iterable[Expected]) -> None:
        """Record *messages*, in the order of the stream."""
        self._database.executemany(_EXPECT, ((*one.key, *one[1:5], *one.place) for one in messages))

    def expect_dead(self, places: Iterable[Place]) -> None:
        """Record that the messages at *places* are dead letters."""
        self._database.executemany(_EXPECT_DEAD, places)

    def find(self, key: Key, checksum: int | None) -> bool:
        """
        Record a row of *key*, and return whether the key is expected.

        A row that matches no event of the key counts as wrong.
        """
        events: dict[int | None, int] = dict(self._database.execute(_EVENTS, key).fetchall())
        if not events:
            return False
        event = events.get(checksum)
        first = next(iter(events.values()))
        self._database.execute(_FIND, (event is None, *key, first if event is None else event))
        return True

    def count(self) -> Counts:
        """Return the counts so far."""
        events, rows, *kinds = map(int, self._database.execute(_COUNT).fetchone())
        return Counts(events, rows, dict(zip(_CONDITIONS, kinds, strict=True)))

    def first(self, kind: Kind, limit: int) -> list[tuple[int, Key]]:
        """Return sequence and key of the first events of *kind*, at most *limit*, in the order of the stream."""
        query = f"{_LINES} SELECT * FROM keys WHERE {_CONDITIONS[kind]} ORDER BY sequence LIMIT ?"  # noqa: S608  (constants)
        return [(row[2], (row[0], row[1])) for row in self._database.execute(query, (limit,))]
