"""
One connection to a table, and how rows get into it.

A batch is copied right into the table: new events, which is what nearly all are, cost half of what they would through a
staging table.  A single row that is there already ends that copy, and the batch goes through the staging table instead,
as do the next ones: where one event comes again, others follow.  Only there is an event compared with the row that has
its key.

Nothing outlives a transaction but the staging table, which each makes if it has to: a pooler may give every transaction
another session.
"""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg
import structlog

from consumers.sinks.postgres.binary import HEADER, TRAILER
from consumers.sinks.postgres.errors import reason_of
from consumers.sinks.postgres.staging import Staging
from consumers.sinks.postgres.table import TableMismatch
from noetl_events.conflicts import Likeness
from noetl_events.jetstream.options import redacted
from noetl_events.sink import SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from consumers.sinks.postgres.rows import Row
    from consumers.sinks.postgres.table import Shape, Table
    from noetl_events.conflicts import Comparison

BROKEN: Final = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What asyncpg raises when a connection ends under it, the third when it ended between two of our calls."""

MISREAD: Final = "not such as postgresql://user@host:5432/db; in user and password write / ? # [ as %2F %3F %23 %5B"
"""What is wrong with a URL in which a host or a port cannot be found."""

_CONNECT_TIMEOUT: Final = 5.0
# One message of the protocol cannot be larger than 1 GB, and an event than NATS' max_payload.
_CHUNK_ROWS: Final = 500
_STAGED_AFTER_CONFLICT: Final = 32
# A row may be deleted between the insert that finds its key taken and the look at it.
_LOOKS: Final = 3
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


_pack_count = struct.Struct(">h").pack
_pack_integer = struct.Struct(">ii").pack

log = structlog.get_logger()


class Stored(NamedTuple):
    """
    What became of the rows of one transaction.

    Args:
        inserted: rows that were new.
        unlike: by place, those whose key the table has for an event that is not the same.

    """

    inserted: int
    unlike: dict[int, Comparison]


class Session:
    """Rows into *table*, which has this *shape*, over *connection*, which was opened for it."""

    def __init__(self, connection: asyncpg.Connection, table: Table, shape: Shape) -> None:
        self._connection = connection
        self._table = table
        self._staging = Staging(table, shape)
        self._has_digest = shape.has_digest
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
                shape = await table.check(connection)
                await _require_readable(connection, table, shape)
        except (TableMismatch, asyncpg.PostgresError, *BROKEN) as exc:
            connection.terminate()
            raise SinkUnavailable(reason_of(exc)) from exc
        except asyncio.CancelledError:
            connection.terminate()
            raise
        return cls(connection, table, shape)

    async def insert(self, rows: list[Row]) -> Stored:
        """
        Store *rows* in one transaction; of those whose key is there, the row that is there stays as it is.

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

    async def _transact(self, store: Callable[[list[Row]], Awaitable[Stored]], rows: list[Row]) -> Stored:
        try:
            await self._connection.execute(_BEGIN)
            stored = await store(rows)
            await self._connection.execute("COMMIT")
        except asyncpg.PostgresError:
            if self._connection.is_in_transaction():
                await self._connection.execute("ROLLBACK")
            raise
        return stored

    async def _copy(self, rows: list[Row]) -> Stored:
        record_of = _record_with_digest if self._has_digest else _record
        status = await self._connection.copy_to_table(
            self._table.relation,
            schema_name=self._table.schema,
            columns=self._staging.carried,
            format="binary",
            source=_chunks(rows, record_of, fields=len(self._staging.carried)),
        )
        return Stored(_count(status), {})

    async def _copy_staged(self, rows: list[Row]) -> Stored:
        staging = self._staging
        await self._connection.execute(staging.create)
        record_of = _staged_with_digest if self._table.mapping.is_ours else _staged
        await self._connection.copy_to_table(
            staging.name,
            schema_name="pg_temp",
            columns=staging.columns,
            format="binary",
            source=_chunks(rows, record_of, fields=len(staging.columns)),
        )
        inserted: set[int] = set()
        for _ in range(_LOOKS):
            inserted |= _places_of(await self._connection.fetch(staging.carry_over), rows)
            found = [] if len(inserted) == len(rows) else await self._connection.fetch(staging.compare)
            # The table may change what it is given: a row that was just inserted is not compared with itself.
            unlike = [row for row in found if row["place"] not in inserted]
            if not any(row["is_gone"] for row in unlike):
                break
        else:
            _warn_of_unseen(self._table, [row for row in unlike if row["is_gone"]])
        compared = {row["place"]: staging.comparison_of(row) for row in unlike if not row["is_gone"]}
        return Stored(
            len(inserted), {place: one for place, one in compared.items() if one.likeness is not Likeness.SAME}
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


async def _require_readable(connection: asyncpg.Connection, table: Table, shape: Shape) -> None:
    """
    Refuse a role that cannot compare an event with the row that has its key, as roles of the first version cannot.

    Raises:
        SinkUnavailable: with the statement to run.

    """
    if not shape.unreadable:
        return
    role = await connection.fetchval("SELECT quote_ident(current_user)")
    columns = ", ".join(shape.unreadable)
    raise SinkUnavailable(
        f"table {table.name}: role {role} may not read {columns}, by which an event is compared with the row that has "
        f"its key; as the table's owner run: GRANT SELECT ({columns}) ON TABLE {table.quoted} TO {role};"
    )


def _places_of(keys: list[asyncpg.Record], rows: list[Row]) -> set[int]:
    """Return the places of the rows that were inserted with *keys*: of two with one key it is the first."""
    if not keys:
        return set()
    # Of two rows with one key the first is the last to be noted.
    places = {(row.event.execution_id, row.event_id): row.place for row in reversed(rows)}
    return {places[key["execution_id"], key["event_id"]] for key in keys}


def _warn_of_unseen(table: Table, unseen: list[asyncpg.Record]) -> None:
    first = unseen[0]
    log.warning(
        "postgres.unseen",
        table=table.name,
        events=len(unseen),
        execution_id=first["execution_id"],
        event_id=first["event_id"],
        reason="neither inserted nor found: a trigger drops these rows, or row-level security hides what is there",
    )


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])


def _record(row: Row) -> bytes:
    return row.record


def _record_with_digest(row: Row) -> bytes:
    return row.record + row.digest


def _staged(row: Row) -> bytes:
    return row.record + _pack_integer(4, row.place)


def _staged_with_digest(row: Row) -> bytes:
    return row.record + row.digest + _pack_integer(4, row.place)


async def _chunks(rows: list[Row], record_of: Callable[[Row], bytes], *, fields: int) -> AsyncIterator[bytes]:
    # The number of fields stands in front of each record.
    count = _pack_count(fields)
    yield HEADER
    for start in range(0, len(rows), _CHUNK_ROWS):
        # The digests of a chunk are made while the server takes the chunk before it.
        yield count + count.join(map(record_of, rows[start : start + _CHUNK_ROWS]))
    yield TRAILER
