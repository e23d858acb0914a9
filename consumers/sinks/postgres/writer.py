"""
The writer: store rows in one transaction if possible, else handle the error by its class.

A batch is split at the rows that the table refuses, until each of these stands alone.  `errors` has the error classes.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg

from consumers.sinks.postgres.errors import ErrorClass, line_of, meaning_of, missing_parent_of, reason_of
from consumers.sinks.postgres.session import BROKEN, Session
from noetl_events.conflicts import Likeness
from noetl_events.jetstream.connect.servers import redacted
from noetl_events.sink import SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncpg import PostgresError

    from consumers.sinks.postgres.rows import Row
    from consumers.sinks.postgres.session import Stored
    from consumers.sinks.postgres.table import Table
    from noetl_events.conflicts import Comparison

# Refused rows come in runs, and rows behind a refused one are sent in vain, so these parts are small.
_NEXT_ROWS: Final = 500


def is_refused(rows: list[Row], refusal: PostgresError) -> bool:
    """Return whether *refusal* applies to every one of *rows*: there is one row, or all share the missing parent."""
    parent = missing_parent_of(refusal)
    return len(rows) == 1 or (parent is not None and all(row.catalog_id == parent for row in rows))


def cut(rows: list[Row], refusal: PostgresError) -> list[list[Row]]:
    """Return *rows* in parts: the refused ones apart if *refusal* names them, else in halves."""
    parent = missing_parent_of(refusal)
    orphans = [row for row in rows if row.catalog_id == parent] if parent is not None else []
    if orphans:
        return [orphans, [row for row in rows if row.catalog_id != parent]]
    line = line_of(refusal)
    if line is not None and 1 <= line <= len(rows):
        return [rows[: line - 1], rows[line - 1 : line], *in_parts(rows[line:], _NEXT_ROWS)]
    return in_parts(rows, -(-len(rows) // 2))


def in_parts(rows: list[Row], size: int) -> list[list[Row]]:
    """Return *rows* in parts of *size*, the last one shorter."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


_CONTENTION_ATTEMPTS: Final = 5
_CONTENTION_WAIT: Final = 0.05
_UNKNOWN_ATTEMPTS: Final = 3
_PARENT_WAITS: Final = (0.1, 0.4, 1.0)
_SUSPICIOUS_ROWS: Final = 10
_MOST_ROWS: Final = 1_000_000


class Unstored(NamedTuple):
    """
    The rows of a batch that did not become new rows, by batch index, apart from plain duplicates.

    Args:
        reasons: reasons of the rows that the server rejects permanently.
        conflicts: comparisons of the rows with a key that a different event has.
        variants: comparisons of the rows that exist with another payload.

    """

    reasons: dict[int, str]
    conflicts: dict[int, Comparison]
    variants: dict[int, Comparison]


class Writer:
    """
    Hold a session on *table*, and store batches with it, one at a time.

    Args:
        dsn: URL of the server.
        table: table to write to.
        deadline: timeout of a transaction, in seconds.

    """

    def __init__(self, dsn: str, table: Table, *, deadline: float) -> None:
        self.inserted = 0
        self.duplicates = 0
        self._unlike: dict[int, Comparison] = {}
        self._dsn = dsn
        self._table = table
        self._deadline = deadline
        self._session: Session | None = None
        # The largest number of rows per transaction, halved when the server is too slow for it.
        self._most_rows = _MOST_ROWS
        self._unknown_errors = 0

    async def store(self, rows: list[Row]) -> Unstored:
        """
        Store *rows*, and return those that differ from stored ones or can never be stored; the rest is stored.

        Raises:
            SinkUnavailable: some rows may be stored; retry all of them later.

        """
        self._unlike = {}
        refused = await self._store_patiently(rows)
        unlike = self._unlike.items()
        conflicts = {place: one for place, one in unlike if one.likeness is Likeness.CONFLICT}
        _require_suspects_to_be_few(rows, refused, conflicts)
        self._unknown_errors = 0
        return Unstored(
            {place: reason_of(refusal) for place, refusal in refused.items()},
            conflicts,
            {place: one for place, one in unlike if one.likeness is Likeness.VARIANT},
        )

    def close(self) -> None:
        """Close the connection, if there is one; the next `store` opens another."""
        if self._session is not None:
            self._session.terminate()
            self._session = None

    async def _store_patiently(self, rows: list[Row]) -> dict[int, asyncpg.PostgresError]:
        """Store *rows*, retrying those with a missing parent; return the refused ones with their errors."""
        refused = await self._store_in_parts(rows)
        for wait in _PARENT_WAITS:
            orphans = [row for row in rows if _is_orphan(refused.get(row.place))]
            if not orphans:
                break
            await asyncio.sleep(wait)
            late = await self._store_in_parts(orphans)
            kept = {place: refusal for place, refusal in refused.items() if not _is_orphan(refusal)}
            refused = kept | late
        return refused

    async def _store_in_parts(self, rows: list[Row]) -> dict[int, asyncpg.PostgresError]:
        """Store *rows*, in several transactions if they are many or some are refused; return the errors of those."""
        refused: dict[int, asyncpg.PostgresError] = {}
        parts = deque(in_parts(rows, self._most_rows))
        while parts:
            part = parts.popleft()
            refusal = await self._store_part(part) if part else None
            if refusal is None:
                continue
            if is_refused(part, refusal):
                refused |= dict.fromkeys((row.place for row in part), refusal)
            else:
                parts.extendleft(reversed(cut(part, refusal)))
        self._most_rows = min(self._most_rows * 2, _MOST_ROWS)
        return refused

    async def _store_part(self, rows: list[Row]) -> asyncpg.PostgresError | None:
        """Store *rows* in one transaction, or return the error if a row is refused."""
        for attempt in range(1, _CONTENTION_ATTEMPTS + 1):
            try:
                stored = await self._insert(rows)
            except asyncpg.PostgresError as exc:
                meaning = self._meaning_of(exc, rows)
                if meaning in (ErrorClass.ROW, ErrorClass.ORPHAN):
                    return exc
                if meaning is not ErrorClass.CONTENTION or attempt == _CONTENTION_ATTEMPTS:
                    self.close()
                    raise SinkUnavailable(f"{self._table.name}: {reason_of(exc)}") from exc
                await asyncio.sleep(random.uniform(0, _CONTENTION_WAIT * 2**attempt))
            else:
                self._count(rows, stored)
                break
        return None

    def _count(self, rows: list[Row], stored: Stored) -> None:
        conflicts = sum(one.likeness is Likeness.CONFLICT for one in stored.unlike.values())
        self.inserted += stored.inserted
        self.duplicates += len(rows) - stored.inserted - conflicts
        self._unlike |= stored.unlike

    async def _insert(self, rows: list[Row]) -> Stored:
        if self._session is None:
            self._session = await Session.open(self._dsn, self._table)
        try:
            async with asyncio.timeout(self._deadline):
                return await self._session.insert(rows)
        except asyncpg.PostgresError:
            raise
        except BROKEN as exc:
            if isinstance(exc, TimeoutError):
                self._limit_below(rows)
            self.close()
            raise SinkUnavailable(f"{redacted(self._dsn)}: {reason_of(exc)}") from exc
        except asyncio.CancelledError:
            self.close()
            raise

    def _meaning_of(self, error: asyncpg.PostgresError, rows: list[Row]) -> ErrorClass:
        meaning = meaning_of(error)
        if meaning is ErrorClass.SLOW:
            self._limit_below(rows)
        if meaning is not ErrorClass.UNKNOWN:
            return meaning
        # Treat unknown errors as outages for the first three attempts, then as row errors.
        self._unknown_errors += 1
        return ErrorClass.OUTAGE if self._unknown_errors <= _UNKNOWN_ATTEMPTS else ErrorClass.ROW

    def _limit_below(self, rows: list[Row]) -> None:
        self._most_rows = max(1, len(rows) // 2)


def _is_orphan(refusal: asyncpg.PostgresError | None) -> bool:
    return refusal is not None and meaning_of(refusal) is ErrorClass.ORPHAN


def _require_suspects_to_be_few(
    rows: list[Row], refused: dict[int, asyncpg.PostgresError], conflicts: Iterable[int]
) -> None:
    """
    Raise if no row of a batch was stored and most were refused for one reason: then the table is at fault.

    A conflict does not count as stored, because the table has another row with that key.  A missing parent is the fault
    of the event: a batch often belongs to one execution, and a catalog entry that never arrives must not block the
    rest.

    Raises:
        SinkUnavailable: the table is at fault.

    """
    if len(refused.keys() | conflicts) < len(rows):
        return
    suspects = [refusal for refusal in refused.values() if not _is_orphan(refusal)]
    for state, times in Counter(refusal.sqlstate for refusal in suspects).most_common(1):
        if times >= _SUSPICIOUS_ROWS:
            refusal = next(refusal for refusal in suspects if refusal.sqlstate == state)
            raise SinkUnavailable(
                f"none of {len(rows)} events was stored, and {times} were refused for one reason: "
                f"{reason_of(refusal)}; repair the table"
            )
