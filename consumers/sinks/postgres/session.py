"""
One connection to a table, and how rows get into it.

A batch is copied right into the table: new events, which is what nearly all are, cost half of what they would through a
staging table.  A single row that is there already ends that copy, and the batch goes through the staging table instead,
as do the next ones: where one event comes again, others follow.  Only there is an event compared with the row that has
its key; rows with a new key are carried over.

Nothing outlives a transaction but the staging table, which each makes if it has to: a pooler may give every transaction
another session.

Verification reads the rows of a table through a cursor of the server.
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
from noetl_events.conflicts import Comparison, Frame, Likeness
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
    The statements around the staging table of a session.

    Args:
        table: that rows are carried to.
        shape: of that table.

    """

    def __init__(self, table: Table, shape: Shape) -> None:
        self._table = table
        self._shape = shape
        columns = table.mapping.columns
        self._columns: Final = {**columns, **(DIGEST if table.mapping.is_ours else {}), "place": "integer"}
        # Named by its columns: in a session of a pooler, another mapping or version may have left one too.
        self.name: Final = f"noetl_events_{crc32(listed(self._columns).encode()):08x}"
        self.columns: Final = [*self._columns]
        """Of the staging table: those of the table, the digest if it is a table of ours, and the place in the batch."""

        self.carried: Final = [*columns, *(DIGEST if shape.has_digest else ())]
        """The columns of the table that are written."""

    @property
    def create(self) -> str:
        """The statement that makes it, where this session has none yet."""
        return f"CREATE TEMPORARY TABLE IF NOT EXISTS {self.name} ({listed(self._columns)}) ON COMMIT DELETE ROWS"

    @property
    def carry_over(self) -> str:
        """
        The query that carries the rows with a new key over, and returns these keys.

        Sorted, so that two projectors that insert the same rows wait for each other instead of locking up, and so that
        of two with one key the first of the batch is stored.  The conflict is named: without it, a conflict with any
        other unique index would drop a row in silence.
        """
        names = ", ".join(self.carried)
        return (
            f"INSERT INTO {self._table.quoted} ({names}) "  # noqa: S608  (the table is quoted, the columns are ours)
            f"SELECT {names} FROM pg_temp.{self.name} ORDER BY event_id, execution_id, place "
            f"ON CONFLICT ({_KEY}) DO NOTHING RETURNING {_KEY}"
        )

    @property
    def compare(self) -> str:
        """
        The query for each staged row that is not the same as the row of its key, or for which there is none.

        The row is looked up by its key: a join would have the planner read a large table from end to end.
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
            f"SELECT new.place, old.event_id IS NULL AS is_gone, new.execution_id, new.event_id, "  # noqa: S608  (likewise)
            f"old.event_type AS old_type, {step.format('old')} AS old_step, {_time('old')} AS old_time, "
            f"new.event_type AS new_type, {step.format('new')} AS new_step, {_time('new')} AS new_time, "
            f"{same_status} AS same_status, {same_worker} AS same_worker, {same_payload} AS same_payload, "
            f"{both} AS as_emitted "
            f"FROM pg_temp.{self.name} new LEFT JOIN LATERAL (SELECT {', '.join(read)} FROM {self._table.quoted} found "
            f"WHERE {' AND '.join(f'found.{name} = new.{name}' for name in KEY)} LIMIT 1) old ON true "
            f"WHERE old.event_id IS NULL OR ({other} AND NOT ({same}))"
        )

    def comparison_of(self, found: Record) -> Comparison:
        """Return what *found*, a row of `compare`, says."""
        return Comparison(
            key=(found["execution_id"], found["event_id"]),
            stored=Frame(found["old_type"], found["old_step"], found["old_time"]),
            event=Frame(found["new_type"], found["new_step"], found["new_time"]),
            same_status=found["same_status"],
            same_worker=found["same_worker"],
            same_payload=found["same_payload"],
            as_emitted=found["as_emitted"],
            resolution=self._shape.resolution,
        )


def _time(row: str) -> str:
    """Return the time of *row* in Unix microseconds, NULL for one that is infinite."""
    moment = f"{row}.created_at"
    return f"CASE WHEN isfinite({moment}) THEN round(extract(epoch FROM {moment}) * 1000000)::bigint END"


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


_FAREWELL: Final = 5.0
_SESSION: Final = "SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'"
# A time as text, for it may be one that Python has not: infinity, or one in the year 20000.
_SELECTED: Final = ", ".join(
    f"{name}::text" if kind.startswith("timestamp") else name for name, kind in PLAIN.columns.items()
)


def read_table(url: str, *, batch_size: int) -> AsyncGenerator[list[Any], None]:
    """
    Return every row of the table a `PostgresSink` of this *url* writes, all as of one moment.

    Raises:
        ValueError: the table is no name, or not the plain one.
        SinkUnavailable: while iterating, it cannot be read now.

    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if (mapping := query.pop("mapping", "plain")) != "plain":
        raise ValueError(f"--to: a table with mapping={mapping} cannot be read back: it does not hold all of an event")
    query.pop("on_nul", None)
    select = f"SELECT {_SELECTED} FROM {quoted(query.pop('table', DEFAULT_TABLE))}"  # noqa: S608  (quoted, and ours)
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
