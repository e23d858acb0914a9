"""
A connection to a table, and the ways to write rows into it and to read them.

A batch is copied directly into the table: nearly all events are new, and this costs half of a copy through a staging
table.  A single row that exists already aborts that copy.  The batch then goes through the staging table, as do the
next ones, because redelivered events come in runs.  Only there is an event compared with the row of its key, and rows
with a new key are moved to the table.

No state outlives a transaction except the staging table, which a transaction creates if necessary, because a pooler may
assign another session to every transaction.

Verification reads the rows of a table through a server-side cursor.
"""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from urllib.parse import parse_qsl, urlencode, urlsplit
from zlib import crc32

import asyncpg
import structlog

from consumers.sinks.postgres.errors import reason_of
from consumers.sinks.postgres.rows import DIGEST, HEADER, PLAIN, TRAILER
from consumers.sinks.postgres.table import DEFAULT_TABLE, KEY, TableMismatch, listed, quoted
from noetl_events.conflicts import Comparison, Likeness, Occurrence
from noetl_events.jetstream.connect.servers import redacted
from noetl_events.sink import SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from asyncpg import Record

    from consumers.sinks.postgres.rows import Row
    from consumers.sinks.postgres.table import Shape, Table

_KEY: Final = ", ".join(KEY)


class Staging:
    """
    The statements for the staging table of a session.

    Args:
        table: table that the rows are moved to.
        shape: shape of that table.

    """

    def __init__(self, table: Table, shape: Shape) -> None:
        self._table = table
        self._shape = shape
        columns = table.mapping.columns
        self._columns: Final = {**columns, **(DIGEST if table.mapping.is_ours else {}), "place": "integer"}
        # The columns are part of the name, because a pooler's session may have a staging table of another mapping or
        # version.
        self.name: Final = f"noetl_events_{crc32(listed(self._columns).encode()):08x}"
        self.columns: Final = [*self._columns]
        """
        The columns of the staging table: those of the table, the digest if `create_schema` made it, and the batch
        index.
        """

        self.carried: Final = [*columns, *(DIGEST if shape.has_digest else ())]
        """The columns of the table that are written."""

    @property
    def create(self) -> str:
        """The statement that creates the staging table, unless this session has one."""
        return f"CREATE TEMPORARY TABLE IF NOT EXISTS {self.name} ({listed(self._columns)}) ON COMMIT DELETE ROWS"

    @property
    def insert_staged(self) -> str:
        """
        The query that inserts the rows with a new key, and returns these keys.

        Sorted rows make two projectors that insert the same rows wait for each other instead of deadlocking, and of two
        rows with one key the first of the batch is stored.  The conflict target is named, because otherwise a conflict
        with any other unique index would drop a row silently.
        """
        names = ", ".join(self.carried)
        return (
            f"INSERT INTO {self._table.quoted} ({names}) "  # noqa: S608  (the table is quoted, the columns are constants)
            f"SELECT {names} FROM pg_temp.{self.name} ORDER BY event_id, execution_id, place "
            f"ON CONFLICT ({_KEY}) DO NOTHING RETURNING {_KEY}"
        )

    @property
    def compare(self) -> str:
        """
        The query for each staged row that differs from the row of its key, or that has no such row.

        A lateral look-up finds the row by key, because for a join the planner would scan a large table completely.
        """
        likeness = self._table.mapping.likeness
        step = likeness.step
        same_status, same_worker, same_payload = (
            f"coalesce({condition}, true)" for condition in (likeness.status, likeness.worker, likeness.payload)
        )
        same_frame = (
            f"old.event_type = new.event_type AND {step.format('old')} = {step.format('new')} "
            "AND old.created_at = new.created_at"
        )
        read = [*KEY, *likeness.columns, *(DIGEST if self._shape.has_digest else ())]
        both = "(old.digest IS NOT NULL)" if self._shape.has_digest else "false"
        other = "old.digest IS DISTINCT FROM new.digest" if self._shape.has_digest else "true"
        same = f"coalesce({same_frame}, false) AND {same_status} AND {same_worker} AND {same_payload}"
        return (
            f"SELECT new.place, old.event_id IS NULL AS is_gone, new.execution_id, new.event_id, "  # noqa: S608  (as above)
            f"old.event_type AS old_type, {step.format('old')} AS old_step, {_time('old')} AS old_time, "
            f"new.event_type AS new_type, {step.format('new')} AS new_step, {_time('new')} AS new_time, "
            f"{same_status} AS same_status, {same_worker} AS same_worker, {same_payload} AS same_payload, "
            f"{both} AS as_emitted "
            f"FROM pg_temp.{self.name} new LEFT JOIN LATERAL (SELECT {', '.join(read)} FROM {self._table.quoted} found "
            f"WHERE {' AND '.join(f'found.{name} = new.{name}' for name in KEY)} LIMIT 1) old ON true "
            f"WHERE old.event_id IS NULL OR ({other} AND NOT ({same}))"
        )

    def comparison_of(self, found: Record) -> Comparison:
        """Return the comparison in *found*, a row of `compare`."""
        return Comparison(
            key=(found["execution_id"], found["event_id"]),
            stored=Occurrence(found["old_type"], found["old_step"], found["old_time"]),
            event=Occurrence(found["new_type"], found["new_step"], found["new_time"]),
            same_status=found["same_status"],
            same_worker=found["same_worker"],
            same_payload=found["same_payload"],
            as_emitted=found["as_emitted"],
            resolution=self._shape.resolution,
        )


def _time(row: str) -> str:
    """Return the time of *row* in Unix microseconds, NULL for an infinite one."""
    moment = f"{row}.created_at"
    return f"CASE WHEN isfinite({moment}) THEN round(extract(epoch FROM {moment}) * 1000000)::bigint END"


BROKEN: Final = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""Errors of asyncpg for a lost connection; InterfaceError is raised if it was lost between two calls."""

MISREAD: Final = "not such as postgresql://user@host:5432/db; in user and password write / ? # [ as %2F %3F %23 %5B"
"""The error text for a URL without a readable host or port."""

_CONNECT_TIMEOUT: Final = 5.0
# A protocol message is limited to 1 GB, and an event to NATS' max_payload.
_CHUNK_ROWS: Final = 500
_STAGED_AFTER_CONFLICT: Final = 32
# A row may be deleted between the insert that conflicts with it and the look-up.
_LOOKUPS: Final = 3
# SQLSTATE of an existing row, and of row-level security, which does not support COPY.
_NEEDS_STAGING: Final = ("23505", "0A000")

# These three are sent with the first message of a connection, so they also apply behind a pooler.
_DEFAULTS: Final = {"target_session_attrs": "read-write", "application_name": "noetl-events", "timezone": "UTC"}
# READ COMMITTED, because a stricter level fails when another client stores the same event at the same time.  The
# timeouts release this session's row locks when the server has lost its client.
_START_TRANSACTION: Final = """
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
    The result of storing rows in one transaction.

    Args:
        inserted: number of new rows.
        unlike: comparisons of rows that conflict with a row of another event, by batch index.

    """

    inserted: int
    unlike: dict[int, Comparison]


class _RowsDropped(Exception):
    """COPY has stored fewer rows than it was given, so a trigger drops or moves some."""


class Session:
    """A session that writes rows into *table* of this *shape* over *connection*, and owns the connection."""

    def __init__(self, connection: asyncpg.Connection, table: Table, shape: Shape) -> None:
        self._connection = connection
        self._table = table
        self._staging = Staging(table, shape)
        self._has_digest = shape.has_digest
        self._staged_left = 0

    @classmethod
    async def open(cls, dsn: str, table: Table) -> Self:
        """
        Connect, and check that the table accepts the rows of the mapping.

        Raises:
            SinkUnavailable: the server does not answer or refuses, or the table does not match the mapping.
            ValueError: *dsn* is invalid.

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
        Store *rows* in one transaction; an existing row of the same key stays unchanged.

        Raises:
            asyncpg.PostgresError: one or all rows were refused; nothing was stored, and the session is usable.
            OSError: or any other error of `BROKEN`: the rows may be stored or not; terminate the session.

        """
        if not self._staged_left:
            try:
                return await self._transact(self._copy, rows)
            except _RowsDropped:
                # Only the staging path looks for each row, and reports those that are nowhere.
                pass
            except asyncpg.PostgresError as exc:
                if exc.sqlstate not in _NEEDS_STAGING:
                    raise
            self._staged_left = _STAGED_AFTER_CONFLICT
        self._staged_left -= 1
        return await self._transact(self._copy_staged, rows)

    def terminate(self) -> None:
        """Close the connection without the terminate message, because a peer that hangs would block it."""
        self._connection.terminate()

    async def _transact(self, store: Callable[[list[Row]], Awaitable[Stored]], rows: list[Row]) -> Stored:
        try:
            await self._connection.execute(_START_TRANSACTION)
            stored = await store(rows)
            await self._connection.execute("COMMIT")
        except (asyncpg.PostgresError, _RowsDropped):
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
        if _count(status) != len(rows):
            raise _RowsDropped
        return Stored(len(rows), {})

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
        for _ in range(_LOOKUPS):
            inserted |= _places_of(await self._connection.fetch(staging.insert_staged), rows)
            found = [] if len(inserted) == len(rows) else await self._connection.fetch(staging.compare)
            # A trigger may change the rows, so rows that were just inserted are not compared with themselves.
            unlike = [row for row in found if row["place"] not in inserted]
            if not any(row["is_gone"] for row in unlike):
                break
        else:
            _warn_of_missing(self._table, [row for row in unlike if row["is_gone"]])
        compared = {row["place"]: staging.comparison_of(row) for row in unlike if not row["is_gone"]}
        return Stored(
            len(inserted), {place: one for place, one in compared.items() if one.likeness is not Likeness.SAME}
        )


async def connect(dsn: str) -> asyncpg.Connection:
    """
    Connect to the first host of *dsn* that accepts writes.

    Raises:
        SinkUnavailable: no host accepts writes; the reason is the last host's.
        ValueError: *dsn* is invalid.

    """
    *others, last = _hosts_of(dsn)
    for host in others:
        with suppress(SinkUnavailable):
            return await _connect_to(host)
    return await _connect_to(last)


async def _connect_to(dsn: str) -> asyncpg.Connection:
    try:
        # Prepared statements are off, so a pooler in between is harmless.
        return await asyncpg.connect(dsn, timeout=_CONNECT_TIMEOUT, statement_cache_size=0)
    except asyncpg.ClientConfigurationError as exc:
        raise ValueError(f"sink URL: {redacted(dsn)}: {exc}") from None
    except ValueError:
        # The driver's text may quote a part of the password.
        raise ValueError(f"sink URL: {redacted(dsn)}: {MISREAD}") from None
    except (asyncpg.PostgresError, *BROKEN) as exc:
        raise SinkUnavailable(f"cannot connect to {redacted(dsn)}: {reason_of(exc)}") from exc


def _hosts_of(dsn: str) -> list[str]:
    """Return a URL for each host, because asyncpg's single timeout could be used up by a first host that hangs."""
    parts = urlsplit(dsn)
    query = urlencode(_DEFAULTS | dict(parse_qsl(parts.query)))
    user, at, hosts = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{user}{at}{host}", query=query).geturl() for host in hosts.split(",")]


async def _require_readable(connection: asyncpg.Connection, table: Table, shape: Shape) -> None:
    """
    Raise if the role cannot read the columns to compare, as roles of the first version cannot.

    Raises:
        SinkUnavailable: a column is unreadable; the text has the statement to run.

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
    """Return the batch indexes of the rows that were inserted with *keys*; of two rows with one key, the first."""
    if not keys:
        return set()
    # Reversed order lets the first of two rows with one key overwrite the second.
    places = {(row.event.execution_id, row.event_id): row.place for row in reversed(rows)}
    return {places[key["execution_id"], key["event_id"]] for key in keys}


def _warn_of_missing(table: Table, missing: list[asyncpg.Record]) -> None:
    first = missing[0]
    log.warning(
        "postgres.rows_missing",
        table=table.name,
        events=len(missing),
        execution_id=first["execution_id"],
        event_id=first["event_id"],
        reason="neither inserted nor found: a trigger drops these rows, or row-level security hides existing ones",
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
    # The number of fields precedes each record.
    count = _pack_count(fields)
    yield HEADER
    for start in range(0, len(rows), _CHUNK_ROWS):
        # The digests of a chunk are computed while the server receives the previous one.
        yield count + count.join(map(record_of, rows[start : start + _CHUNK_ROWS]))
    yield TRAILER


_FAREWELL: Final = 5.0
_SESSION: Final = "SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'"
# Times are read as text, because Python has no infinity and no year 20000.
_SELECTED: Final = ", ".join(
    f"{name}::text" if kind.startswith("timestamp") else name for name, kind in PLAIN.columns.items()
)


def read_table(url: str, *, batch_size: int) -> AsyncGenerator[list[Any], None]:
    """
    Yield every row of the table that a `PostgresSink` of this *url* writes, from one snapshot.

    Raises:
        ValueError: the table name is invalid, or the mapping is not the plain one.
        SinkUnavailable: while iterating, the table cannot be read now.

    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if (mapping := query.pop("mapping", "plain")) != "plain":
        raise ValueError(f"--to: a table with mapping={mapping} cannot be read back: it does not hold all of an event")
    query.pop("on_nul", None)
    select = f"SELECT {_SELECTED} FROM {quoted(query.pop('table', DEFAULT_TABLE))}"  # noqa: S608  (quoted, and constants)
    return _read(parts._replace(query=urlencode(query)).geturl(), select, batch_size)


async def _read(dsn: str, select: str, batch_size: int) -> AsyncGenerator[list[Any], None]:
    connection = await connect(dsn)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(_SESSION)
            cursor = await connection.cursor(select)
            while rows := await cursor.fetch(batch_size):
                yield rows
        await connection.close(timeout=_FAREWELL)
    except (asyncpg.PostgresError, *BROKEN) as exc:
        raise SinkUnavailable(f"{redacted(dsn)}: {reason_of(exc)}") from exc
    finally:
        connection.terminate()
