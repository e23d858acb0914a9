"""Events as rows of a Postgres table."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg

from consumers.sinks.postgres_errors import Meaning, line_of, meaning_of, reason_of
from consumers.sinks.postgres_rows import Row, rows_of
from consumers.sinks.postgres_table import (
    COLUMNS,
    CREATE_STAGING,
    DEFAULT_TABLE,
    STAGING,
    create_table,
    insert_from_staging,
)
from noetl_events.jetstream.options import redacted
from noetl_events.sink import EventsRejected, SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from noetl_events.envelope import ExecutorEvent

_CONTENTION_ATTEMPTS: Final = 5
_CONTENTION_WAIT: Final = 0.05
_CONNECT_TIMEOUT: Final = 10.0
_CHUNK_ROWS: Final = 500

# What asyncpg raises when a connection ends under it, the last one when it ended between two of our calls.
_BROKEN: Final = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)

_SESSION: Final = """
SET TimeZone = 'UTC';
SET application_name = 'noetl-events';
SET statement_timeout = '25s';
SET lock_timeout = '10s';
SET idle_in_transaction_session_timeout = '60s';
"""


class PostgresSink:
    """
    Copy a batch into a staging table and insert from there what the table has not, in one transaction.

    Connects at the first emit, and again whenever the connection is lost.  It never creates anything but the temporary
    staging table: `create_schema` does, for an operator.

    When a row can never be stored, the batch is cut at it: the rows before it, and those after it, are transactions of
    their own.

    Args:
        dsn: a libpq URL; several hosts with `target_session_attrs=read-write` find the one that takes writes.
        table: schema.table.
        deadline: seconds a transaction may take.

    """

    def __init__(self, dsn: str, *, table: str = DEFAULT_TABLE, deadline: float = 30.0) -> None:
        self.table = table
        self.inserted = 0
        self._dsn = dsn
        self._insert = insert_from_staging(table)
        self._deadline = deadline
        self._connection: asyncpg.Connection | None = None
        self._lock = asyncio.Lock()
        self._storing: set[asyncio.Task[dict[int, str]]] = set()
        self._closed = False

    @classmethod
    def from_url(cls, url: str) -> Self:
        """
        Open `postgresql://user@host/db`, with `?table=schema.table` for another table than `noetl.event`.

        Raises:
            ValueError: the table is no name.

        """
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        table = options.pop("table", DEFAULT_TABLE)
        return cls(parts._replace(query=urlencode(options)).geturl(), table=table)

    async def emit(self, event: ExecutorEvent) -> None:
        """Insert *event*."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Insert *events*; see `EventSink` for what is raised."""
        if self._closed:
            raise RuntimeError("PostgresSink is closed")
        rows, reasons = rows_of(events)
        if rows:
            reasons |= await self._store_undisturbed(rows)
        if reasons:
            raise EventsRejected(reasons)

    async def create_schema(self) -> None:
        """
        Create schema and table if they are missing.

        Raises:
            TableMismatch: the table is there and differs.
            SinkUnavailable: the database is away, or says no.

        """
        async with self._lock:
            connection = await self._connect()
            try:
                async with connection.transaction():
                    await create_table(connection, self.table)
            except asyncpg.PostgresError as exc:
                raise SinkUnavailable(reason_of(exc)) from exc
            finally:
                await connection.close()

    async def aclose(self) -> None:
        """Finish the transaction under way and close the connection."""
        self._closed = True
        if self._storing:
            await asyncio.wait(self._storing)
        self._drop()

    async def _store_undisturbed(self, rows: list[Row]) -> dict[int, str]:
        # A caller that is cancelled leaves its transaction to end by itself, within the deadline: asyncpg cannot use
        # a connection that was left between two messages of the protocol.
        storing = asyncio.create_task(self._store_in_turn(rows))
        self._storing.add(storing)
        storing.add_done_callback(self._storing.discard)
        return await asyncio.shield(storing)

    async def _store_in_turn(self, rows: list[Row]) -> dict[int, str]:
        async with self._lock:
            return await self._store(rows)

    async def _store(self, rows: list[Row]) -> dict[int, str]:
        """Store *rows* part by part, a part being everything until a row is refused; return who was, and why."""
        reasons: dict[int, str] = {}
        parts = deque([rows])
        while parts:
            part = parts.popleft()
            if not part:
                continue
            if (refusal := await self._transact(part)) is None:
                continue
            if len(part) == 1:
                reasons[part[0].event_id] = reason_of(refusal)
            else:
                parts.extendleft(reversed(_cut(part, line_of(refusal))))
        return reasons

    async def _transact(self, rows: list[Row]) -> asyncpg.PostgresError | None:
        """Store *rows* in one transaction, or return why one of them never can be."""
        for attempt in range(1, _CONTENTION_ATTEMPTS + 1):
            try:
                await self._copy_and_insert(rows)
            except asyncpg.PostgresError as exc:
                meaning = meaning_of(exc)
                if meaning is Meaning.ROW:
                    return exc
                if meaning is not Meaning.CONTENTION or attempt == _CONTENTION_ATTEMPTS:
                    self._drop()
                    raise SinkUnavailable(f"{self.table}: {reason_of(exc)}") from exc
                await asyncio.sleep(random.uniform(0, _CONTENTION_WAIT * 2**attempt))
            else:
                break
        return None

    async def _copy_and_insert(self, rows: list[Row]) -> None:
        try:
            connection = self._connection or await self._open()
            async with asyncio.timeout(self._deadline), connection.transaction():
                await connection.copy_to_table(
                    STAGING, schema_name="pg_temp", source=_chunks(rows), columns=list(COLUMNS), format="text"
                )
                status = await connection.execute(self._insert)
        except asyncpg.PostgresError:
            raise
        except _BROKEN as exc:
            self._drop()
            raise SinkUnavailable(f"{redacted(self._dsn)}: {str(exc) or type(exc).__name__}") from exc
        except asyncio.CancelledError:
            self._drop()
            raise
        self.inserted += int(status.rpartition(" ")[2])

    async def _open(self) -> asyncpg.Connection:
        connection = await self._connect()
        try:
            await connection.execute(_SESSION)
            await connection.execute(CREATE_STAGING)
        except asyncpg.PostgresError:
            connection.terminate()
            raise
        self._connection = connection
        return connection

    async def _connect(self) -> asyncpg.Connection:
        try:
            # Without prepared statements a pooler between us and the server does not matter.
            return await asyncpg.connect(self._dsn, timeout=_CONNECT_TIMEOUT, statement_cache_size=0)
        except asyncpg.exceptions.ClientConfigurationError as exc:
            raise ValueError(f"sink URL: {redacted(self._dsn)}: {exc}") from None
        except asyncpg.PostgresError as exc:
            raise SinkUnavailable(f"cannot connect to {redacted(self._dsn)}: {reason_of(exc)}") from exc
        except _BROKEN as exc:
            reason = str(exc) or type(exc).__name__
            raise SinkUnavailable(f"cannot connect to {redacted(self._dsn)}: {reason}") from exc

    def _drop(self) -> None:
        # Without the farewell: a peer that does not answer would keep us waiting.
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


async def create_schema(url: str) -> None:
    """Create what `PostgresSink.from_url(url)` needs; see `PostgresSink.create_schema`."""
    await PostgresSink.from_url(url).create_schema()


async def _chunks(rows: list[Row]) -> AsyncIterator[bytes]:
    for start in range(0, len(rows), _CHUNK_ROWS):
        yield b"".join([row.line for row in rows[start : start + _CHUNK_ROWS]])


def _cut(rows: list[Row], line: int | None) -> list[list[Row]]:
    """Return *rows* in parts, the refused row alone if its *line* is known, else in halves."""
    if line is None:
        middle = len(rows) // 2
        return [rows[:middle], rows[middle:]]
    return [rows[: line - 1], rows[line - 1 : line], rows[line:]]
