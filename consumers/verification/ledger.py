"""
What a destination must hold, event by event, and what was found there.

It is kept in a temporary SQLite database, about 50 bytes an event, which goes to the folder for temporary files as soon
as it is larger than its cache: a stream of any length takes the same memory.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from consumers.verification.readback import Key

Kind: TypeAlias = Literal["missing", "different", "duplicates", "dead"]
Place: TypeAlias = tuple[int, int]
"""The sequence of a message, and when it was stored, in Unix nanoseconds."""

# A key may have several checksums: one message for each.  A dead letter that was mended comes back with the same key.
_TABLES: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
CREATE TABLE expected (
    execution_id INTEGER,
    event_id INTEGER,
    checksum INTEGER,
    sequence INTEGER NOT NULL,
    stored_ns INTEGER NOT NULL,
    rows INTEGER NOT NULL DEFAULT 0,
    wrong INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (execution_id, event_id, checksum)
) WITHOUT ROWID;
CREATE TABLE dead (sequence INTEGER, stored_ns INTEGER, PRIMARY KEY (sequence, stored_ns)) WITHOUT ROWID;
"""
_EXPECT: Final = """
INSERT INTO expected (execution_id, event_id, checksum, sequence, stored_ns) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""
_BURY: Final = "INSERT INTO dead VALUES (?, ?) ON CONFLICT DO NOTHING"
_CHECKSUMS: Final = "SELECT checksum FROM expected WHERE execution_id = ? AND event_id = ?"
_FIND: Final = "UPDATE expected SET rows = rows + 1, wrong = wrong + ? WHERE execution_id = ? AND event_id = ?"
# One line a key: of several messages the first counts, and a letter of any of them.
_KEYS: Final = """
WITH keys AS (
    SELECT execution_id, event_id, min(sequence) AS sequence, max(rows) AS rows, max(wrong) AS wrong,
           max((sequence, stored_ns) IN (SELECT sequence, stored_ns FROM dead)) AS dead
    FROM expected GROUP BY execution_id, event_id
)
"""
_CONDITIONS: Final[dict[Kind, str]] = {
    "missing": "rows = 0 AND NOT dead",
    "different": "wrong > 0",
    "duplicates": "rows > 1",
    "dead": "rows = 0 AND dead",
}
_COUNT: Final = (
    f"{_KEYS} SELECT count(*), total(rows), "  # noqa: S608  (the conditions are ours)
    f"{', '.join(f'total({condition})' for condition in _CONDITIONS.values())} FROM keys"
)


class Counts(NamedTuple):
    """How many events were expected, how many rows were found of them, and how many events are of each kind."""

    events: int
    rows: int
    kinds: dict[Kind, int]


class Ledger:
    """
    Use it with `with`: note what is expected, then each row found, then count.

    Raises:
        sqlite3.OperationalError: from any call, the folder for temporary files is full.

    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(_TABLES)
        # One transaction from here to the end: nothing has to survive.
        self._database.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def expect(self, events: Iterable[tuple[Key, int, Place]]) -> None:
        """Note the key, the checksum and the place of *events*."""
        self._database.executemany(_EXPECT, ((*key, checksum, *place) for key, checksum, place in events))

    def bury(self, places: Iterable[Place]) -> None:
        """Note that the messages at *places* are dead letters."""
        self._database.executemany(_BURY, places)

    def checksums(self, key: Key) -> set[int]:
        """Return the checksums any of which a row of *key* may have; none if no such event is expected."""
        return {checksum for (checksum,) in self._database.execute(_CHECKSUMS, key)}

    def find(self, key: Key, *, wrong: bool) -> None:
        """Note a row of *key*."""
        self._database.execute(_FIND, (wrong, *key))

    def count(self) -> Counts:
        """Count what was noted so far."""
        events, rows, *kinds = map(int, self._database.execute(_COUNT).fetchone())
        return Counts(events, rows, dict(zip(_CONDITIONS, kinds, strict=True)))

    def first(self, kind: Kind, limit: int) -> list[tuple[int, Key]]:
        """Return sequence and key of the first events of *kind*, at most *limit*, in the order of the stream."""
        query = f"{_KEYS} SELECT * FROM keys WHERE {_CONDITIONS[kind]} ORDER BY sequence LIMIT ?"  # noqa: S608  (ours)
        return [(row[2], (row[0], row[1])) for row in self._database.execute(query, (limit,))]
