"""The Postgres sink: options, counters and life cycle."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg
import structlog

from consumers.sinks.postgres.errors import reason_of
from consumers.sinks.postgres.noetl_table import NOETL
from consumers.sinks.postgres.rows import PLAIN, Row, rows_of
from consumers.sinks.postgres.session import MISREAD, connect
from consumers.sinks.postgres.table import DEFAULT_TABLE, Table
from consumers.sinks.postgres.writer import Writer
from noetl_events.jetstream.connect.servers import redacted
from noetl_events.sink import EventsRejected, SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from consumers.sinks.postgres.table import Shape
    from consumers.sinks.postgres.writer import Unstored
    from noetl_events.conflicts import Comparison
    from noetl_events.envelope import ExecutorEvent

_MAPPINGS: Final = {"plain": PLAIN, "noetl": NOETL}
# Without the slashes the driver would read a name as a file, and would connect to the local server.
_SCHEMES: Final = ("postgres://", "postgresql://")
_HOST: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:[0-9]*)?")
# The projector's remedy does not fit here, because its role creates nothing.
_CREATE: Final = (
    "the role needs CREATE on the database for a new schema, and CREATE on the schema for a new table; "
    "run this as their owner"
)
_ON_NUL: Final = ("reject", "replace")

log = structlog.get_logger()


class PostgresSink:
    """
    Copy a batch into the table, in one transaction; existing rows stay unchanged.

    An event with an existing key is compared with that row, as `noetl_events.conflicts` describes.

    The sink connects at the first emit, and again whenever the connection is lost.  The only object it creates is a
    temporary staging table; operators create the schema with `create_schema`.

    When a row can never be stored, the batch is split at it: the rows before and after it are transactions of their
    own.  A row is rejected only after it was refused alone.

    Args:
        dsn: libpq URL; of several hosts the first that accepts writes is used.
        table: name of the table as schema.table.
        mapping: `plain`, the table that `create_schema` makes, or `noetl`, NoETL's own.
        on_nul: handling of NUL, which Postgres cannot store: `reject` the event, or `replace` NUL by U+FFFD.
        deadline: timeout of a transaction, in seconds.

    """

    def __init__(
        self,
        dsn: str,
        *,
        table: str = DEFAULT_TABLE,
        mapping: str = "plain",
        on_nul: str = "reject",
        deadline: float = 30.0,
    ) -> None:
        _require_one_of(_MAPPINGS, mapping=mapping)
        _require_one_of(_ON_NUL, on_nul=on_nul)
        self.rejected = 0
        """Number of events rejected permanently, conflicts included."""
        self.conflicts = 0
        """Number of these with a key that a different event has."""
        self.variants = 0
        """Number of events that the table has with another payload."""
        self._dsn = dsn
        self._mapping = _MAPPINGS[mapping]
        self._replace_nul = on_nul == "replace"
        self._table = Table(table, self._mapping)
        self._writer = Writer(dsn, self._table, deadline=deadline)
        self._lock = asyncio.Lock()
        self._storing: set[asyncio.Task[Unstored]] = set()
        self._closed = False

    @classmethod
    def from_url(cls, url: str) -> Self:
        """
        Open `postgresql://user@host/db?table=schema.table`, a libpq URL with additional options.

        Options: `table`; `mapping`, `plain` or `noetl` for NoETL's own table; `on_nul`, `reject` or `replace`.

        Raises:
            ValueError: the URL or an option is invalid.

        """
        parts = urlsplit(url)
        _require_hosts(parts.netloc, url)
        query = dict(parse_qsl(parts.query))
        table = query.pop("table", DEFAULT_TABLE)
        mapping, on_nul = query.pop("mapping", "plain"), query.pop("on_nul", "reject")
        return cls(parts._replace(query=urlencode(query)).geturl(), table=table, mapping=mapping, on_nul=on_nul)

    @property
    def table(self) -> str:
        """Name of the table, as schema.table."""
        return self._table.name

    @property
    def layout(self) -> Table:
        """The table and its requirements."""
        return self._table

    @property
    def inserted(self) -> int:
        """Number of new rows."""
        return self._writer.inserted

    @property
    def duplicates(self) -> int:
        """Number of rows that existed already."""
        return self._writer.duplicates

    async def emit(self, event: ExecutorEvent) -> None:
        """Insert *event*."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Insert *events*; see `EventSink` for the errors raised."""
        if self._closed:
            raise RuntimeError("PostgresSink is closed")
        rows, reasons = rows_of(events, self._mapping, replace_nul=self._replace_nul)
        conflicts: dict[int, Comparison] = {}
        if rows:
            refused, conflicts, variants = await self._store_undisturbed(rows)
            reasons |= refused | {place: one.reason for place, one in conflicts.items()}
            self._log_variants(variants)
        self.rejected += len(reasons)
        self.conflicts += len(conflicts)
        if reasons:
            raise EventsRejected(reasons, conflicts=conflicts)

    async def create_schema(self, *, upgrade: bool = False) -> Shape:
        """
        Create schema and table if they are missing, and return the shape of the table.

        NoETL's own table is only checked, never created.

        Args:
            upgrade: add the column of the digest, which a table of an older version lacks.

        Raises:
            ValueError: NoETL's own table cannot be upgraded.
            TableMismatch: the table differs, or NoETL's own is missing.
            SinkUnavailable: the database is unavailable, or refuses.

        """
        if upgrade and not self._mapping.is_ours:
            raise ValueError(
                "--upgrade: noetl-events adds no column to NoETL's own table; its rows are compared field by field"
            )
        connection = await connect(self._dsn)
        try:
            async with connection.transaction():
                if self._mapping.is_ours:
                    await self._table.create(connection)
                if upgrade:
                    await self._table.upgrade(connection)
                return await self._table.check(connection)
        except asyncpg.InsufficientPrivilegeError as exc:
            raise SinkUnavailable(f"SQLSTATE {exc.sqlstate}: {exc}; {_CREATE}") from exc
        except asyncpg.PostgresError as exc:
            raise SinkUnavailable(reason_of(exc)) from exc
        finally:
            await connection.close()

    async def connect(self) -> asyncpg.Connection:
        """
        Return a new connection with this sink's options, which the caller closes.

        Raises:
            SinkUnavailable: the server does not answer, or refuses.

        """
        return await connect(self._dsn)

    async def aclose(self) -> None:
        """Finish the transaction in progress and close the connection."""
        self._closed = True
        if self._storing:
            await asyncio.wait(self._storing)
        self._writer.close()

    def _log_variants(self, variants: dict[int, Comparison]) -> None:
        if variants:
            self.variants += len(variants)
            execution_id, event_id = next(iter(variants.values())).key
            log.warning("postgres.variants", events=len(variants), execution_id=execution_id, event_id=event_id)

    async def _store_undisturbed(self, rows: list[Row]) -> Unstored:
        # The transaction of a cancelled caller ends by itself, within the deadline: asyncpg cannot use a connection
        # that was interrupted between two messages of the protocol.
        storing = asyncio.create_task(self._store_in_turn(rows))
        self._storing.add(storing)
        storing.add_done_callback(self._storing.discard)
        return await asyncio.shield(storing)

    async def _store_in_turn(self, rows: list[Row]) -> Unstored:
        async with self._lock:
            return await self._writer.store(rows)


async def create_schema(url: str, *, upgrade: bool = False) -> None:
    """Create the schema and table for `PostgresSink.from_url(url)`; see `PostgresSink.create_schema`."""
    await PostgresSink.from_url(url).create_schema(upgrade=upgrade)


def _require_hosts(netloc: str, url: str) -> None:
    # An unescaped special character in a password cuts the host off early, and the driver's error would quote the rest.
    hosts = netloc.rpartition("@")[2].split(",")
    if not url.startswith(_SCHEMES) or not all(_HOST.fullmatch(host) for host in hosts):
        raise ValueError(f"sink URL: {redacted(url)!r}: {MISREAD}")


def _require_one_of(names: Iterable[str], **option: str) -> None:
    for name, value in option.items():
        if value not in names:
            raise ValueError(f"{name}: {value!r} is none of {', '.join(names)}")
