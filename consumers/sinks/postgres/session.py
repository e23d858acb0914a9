"""
One connection to a table, and how rows get into it.

A batch is copied right into the table: new events, which is what nearly all are, cost half of what they would through a
staging table.  A single row that is there already ends that copy, and the batch goes through the staging table instead,
as do the next ones: where one event comes again, others follow.

Nothing outlives a transaction but the staging table, which each makes if it has to: a pooler may give every transaction
another session.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg

from consumers.sinks.postgres.binary import HEADER, TRAILER
from consumers.sinks.postgres.errors import reason_of
from consumers.sinks.postgres.table import TableMismatch
from noetl_events.jetstream.options import redacted
from noetl_events.sink import SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from consumers.sinks.postgres.rows import Row
    from consumers.sinks.postgres.table import Table

BROKEN: Final = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What asyncpg raises when a connection ends under it, the third when it ended between two of our calls."""

MISREAD: Final = "not such as postgresql://user@host:5432/db; in user and password write / ? # [ as %2F %3F %23 %5B"
"""What is wrong with a URL in which a host or a port cannot be found."""

_CONNECT_TIMEOUT: Final = 5.0
# One message of the protocol cannot be larger than 1 GB, and an event than NATS' max_payload.
_CHUNK_ROWS: Final = 500
_STAGED_AFTER_CONFLICT: Final = 32
# A row that is there already, and row-level security, under which COPY takes nothing.
_NEEDS_STAGING: Final = ("23505", "0A000")

# Sent with the first message of a connection, these three hold behind a pooler too.
_DEFAULTS: Final = {"target_session_attrs": "read-write", "application_name": "noetl-events", "timezone": "UTC"}
# READ COMMITTED, because a stricter level fails where somebody else stores the same event at the same time.  The
# timeouts are for a server that lost us: until it gives up, our rows are locked.
_BEGIN: Final = """
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL statement_timeout = '25s';
SET LOCAL lock_timeout = '10s';
SET LOCAL idle_in_transaction_session_timeout = '60s'
"""


class Session:
    """Rows into *table* over *connection*, which was opened for it."""

    def __init__(self, connection: asyncpg.Connection, table: Table) -> None:
        self._connection = connection
        self._table = table
        self._staged_left = 0

    @classmethod
    async def open(cls, dsn: str, table: Table) -> Self:
        """
        Connect, and see that the table takes what will be written.

        Raises:
            SinkUnavailable: nobody answers, the server says no, or the table is another one.
            ValueError: *dsn* is none.

        """
        connection = await connect(dsn)
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT), connection.transaction():
                await table.check(connection)
        except (TableMismatch, asyncpg.PostgresError, *BROKEN) as exc:
            connection.terminate()
            raise SinkUnavailable(reason_of(exc)) from exc
        except asyncio.CancelledError:
            connection.terminate()
            raise
        return cls(connection, table)

    async def insert(self, rows: list[Row]) -> int:
        """
        Store *rows* in one transaction, and return how many were not there before.

        Raises:
            asyncpg.PostgresError: a row, or all, are refused; nothing was stored, and the session goes on.
            OSError: and whatever else is `BROKEN`: unknown whether they are stored; terminate the session.

        """
        if not self._staged_left:
            try:
                return await self._transact(self._copy, rows)
            except asyncpg.PostgresError as exc:
                if exc.sqlstate not in _NEEDS_STAGING:
                    raise
            self._staged_left = _STAGED_AFTER_CONFLICT
        self._staged_left -= 1
        return await self._transact(self._copy_staged, rows)

    def terminate(self) -> None:
        """Close without the farewell: a peer that does not answer would keep us waiting."""
        self._connection.terminate()

    async def _transact(self, store: Callable[[list[Row]], Awaitable[str]], rows: list[Row]) -> int:
        try:
            await self._connection.execute(_BEGIN)
            status = await store(rows)
            await self._connection.execute("COMMIT")
        except asyncpg.PostgresError:
            if self._connection.is_in_transaction():
                await self._connection.execute("ROLLBACK")
            raise
        return int(status.rpartition(" ")[2])

    async def _copy(self, rows: list[Row]) -> str:
        return await self._copy_into(self._table.relation, schema=self._table.schema, rows=rows)

    async def _copy_staged(self, rows: list[Row]) -> str:
        await self._connection.execute(self._table.create_staging)
        await self._copy_into(self._table.staging, schema="pg_temp", rows=rows)
        return await self._connection.execute(self._table.insert_staged)

    async def _copy_into(self, name: str, *, schema: str, rows: list[Row]) -> str:
        return await self._connection.copy_to_table(
            name, schema_name=schema, columns=list(self._table.columns), format="binary", source=_chunks(rows)
        )


async def connect(dsn: str) -> asyncpg.Connection:
    """
    Connect to the first host of *dsn* that takes writes.

    Raises:
        SinkUnavailable: none does; the reason is that of the last one.
        ValueError: *dsn* is none.

    """
    *others, last = _hosts_of(dsn)
    for host in others:
        with suppress(SinkUnavailable):
            return await _connect_to(host)
    return await _connect_to(last)


async def _connect_to(dsn: str) -> asyncpg.Connection:
    try:
        # Without prepared statements a pooler between us and the server does not matter.
        return await asyncpg.connect(dsn, timeout=_CONNECT_TIMEOUT, statement_cache_size=0)
    except asyncpg.ClientConfigurationError as exc:
        raise ValueError(f"sink URL: {redacted(dsn)}: {exc}") from None
    except ValueError:
        # Its words quote what may be a part of the password.
        raise ValueError(f"sink URL: {redacted(dsn)}: {MISREAD}") from None
    except (asyncpg.PostgresError, *BROKEN) as exc:
        raise SinkUnavailable(f"cannot connect to {redacted(dsn)}: {reason_of(exc)}") from exc


def _hosts_of(dsn: str) -> list[str]:
    """Return one URL for each host: asyncpg has one timeout for all, which the first may use up in silence."""
    parts = urlsplit(dsn)
    query = urlencode(_DEFAULTS | dict(parse_qsl(parts.query)))
    user, at, hosts = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{user}{at}{host}", query=query).geturl() for host in hosts.split(",")]


async def _chunks(rows: list[Row]) -> AsyncIterator[bytes]:
    yield HEADER
    for start in range(0, len(rows), _CHUNK_ROWS):
        yield b"".join([row.record for row in rows[start : start + _CHUNK_ROWS]])
    yield TRAILER
