"""The table of the events: its name, its SQL, its creation, and the check that it fits a mapping."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from consumers.sinks.postgres.rows import DIGEST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Mapping as Dictionary

    from asyncpg import Connection, Record

    from consumers.sinks.postgres.rows import Mapping

DEFAULT_TABLE: Final = "noetl.event"

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")
KEY: Final = ("execution_id", "event_id")
"""The columns of the key of an event."""

_NOT_NULL: Final = " NOT NULL"
_REMEDY: Final = "alter it, or name another with ?table= or ?mapping="

_READ_COLUMNS: Final = """
SELECT attname AS name, format_type(atttypid, NULL) AS kind, attnotnull AS required, atttypmod AS modifier,
       atthasdef OR attidentity <> '' AS filled, attgenerated <> '' AS generated,
       has_column_privilege(attrelid, attnum, 'SELECT') AS readable,
       has_column_privilege(attrelid, attnum, 'INSERT') AS writable
FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
"""
# The unique indexes that ON CONFLICT can name: not partial, not deferrable, and on plain columns.
_READ_KEYS: Final = """
SELECT array_agg(attname ORDER BY attname)::text[] AS key
FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
WHERE indrelid = to_regclass($1) AND indisunique AND indisvalid AND indimmediate AND indpred IS NULL
      AND indexprs IS NULL AND indnkeyatts = indnatts
GROUP BY indexrelid
"""


class TableMismatch(ValueError):
    """The table is missing, or does not fit the mapping; it was left unchanged."""


class Shape(NamedTuple):
    """
    The shape of a table that fits a mapping, as it was found.

    Args:
        has_digest: whether the role can write and read the digest of an event.
        resolution: resolution of `created_at`, in microseconds.
        unreadable: columns that a comparison needs and the role may not read.

    """

    has_digest: bool
    resolution: int
    unreadable: tuple[str, ...]


class Table:
    """
    A table with the rows of *mapping*.

    Raises:
        ValueError: *name* is no schema.table.

    """

    def __init__(self, name: str, mapping: Mapping) -> None:
        self.name: Final = name
        self.mapping: Final = mapping
        self.quoted: Final = quoted(name)

    @property
    def schema(self) -> str:
        """The first part of the name."""
        return self.name.partition(".")[0]

    @property
    def relation(self) -> str:
        """The second part of the name."""
        return self.name.partition(".")[2]

    async def create(self, connection: Connection) -> None:
        """Create schema and table if they are missing."""
        schema = self.quoted.partition(".")[0]
        # The schema is looked up first, because IF NOT EXISTS requires CREATE even for an existing schema.
        if await connection.fetchval("SELECT to_regnamespace($1) IS NULL", schema):
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        columns = listed({**self.mapping.columns, **DIGEST})
        await connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self.quoted} ({columns}, PRIMARY KEY ({', '.join(KEY)}))"
        )

    async def upgrade(self, connection: Connection) -> None:
        """
        Add the column of the digest if it is missing, which rewrites no row.

        Raises:
            TableMismatch: a column of that name has another type.

        """
        # The lock blocks readers while it waits, so it waits for a short time only.
        await connection.execute("SET LOCAL lock_timeout = '5s'")
        await connection.execute(f"ALTER TABLE {self.quoted} ADD COLUMN IF NOT EXISTS {listed(DIGEST)}")
        found = {row["name"]: row for row in await connection.fetch(_READ_COLUMNS, self.quoted)}
        if differences := [*_differences(DIGEST, found)]:
            raise TableMismatch(f"table {self.name} has another column of that name: {'; '.join(differences)}")

    async def check(self, connection: Connection) -> Shape:
        """
        Check that the table fits the mapping; it may have additional columns with defaults.

        Call it in a transaction, because a pooler may assign another session to each statement outside one.

        Raises:
            TableMismatch: the table does not fit; the text names every difference.

        """
        found = {row["name"]: row for row in await connection.fetch(_READ_COLUMNS, self.quoted)}
        if not found:
            raise TableMismatch(
                f"table {self.name} is missing; create it with `noetl-events schema URL`, or NoETL's own with NoETL"
            )
        keys = [row["key"] for row in await connection.fetch(_READ_KEYS, self.quoted)]
        columns = self.mapping.columns
        has_digest = self.mapping.is_ours and _is_digest(found.get("digest"))
        written = {**columns, **(DIGEST if has_digest else {})}
        differences = [*_differences(columns, found), *_surplus(written, found)]
        if sorted(KEY) not in keys:
            differences.append(f"there is no primary key ({', '.join(KEY)})")
        if differences:
            raise TableMismatch(
                f"table {self.name} differs from what the sink writes: {'; '.join(differences)}; {_REMEDY}"
            )
        return Shape(
            has_digest=has_digest,
            resolution=_resolution(found["created_at"]["modifier"]),
            unreadable=tuple(name for name in self.mapping.likeness.columns if not found[name]["readable"]),
        )


def _differences(declared: Dictionary[str, str], found: Dictionary[str, Record]) -> Iterator[str]:
    for name, column in declared.items():
        kind = column.removesuffix(_NOT_NULL)
        if name not in found:
            yield f"{name} {kind} is missing"
        elif found[name]["kind"] not in _same(kind):
            yield f"{name} is {found[name]['kind']}, not {kind}"
        elif found[name]["required"] and kind == column:
            yield f"{name} is NOT NULL, and not every event has a value for it"


def _is_digest(column: Record | None) -> bool:
    # A column of that name that another tool has made is left alone.
    return (
        column is not None
        and column["kind"] == DIGEST["digest"]
        and not column["generated"]
        and column["writable"]
        and column["readable"]
    )


def _resolution(digits: int) -> int:
    """Return the resolution in microseconds of so many fraction digits; -1 is the default, six."""
    return 10 ** (6 - digits) if digits >= 0 else 1


def _surplus(declared: Dictionary[str, str], found: Dictionary[str, Record]) -> Iterator[str]:
    for name, column in found.items():
        if name not in declared and column["required"] and not column["filled"]:
            yield f"{name} is NOT NULL without a default, and the sink does not write it"


def _same(kind: str) -> tuple[str, ...]:
    # The binary format of both types is the same, and NoETL's own table has character varying.
    return ("text", "character varying") if kind == "text" else (kind,)


def listed(columns: Dictionary[str, str]) -> str:
    """Return *columns* as a column list of CREATE TABLE."""
    return ", ".join(f"{name} {column}" for name, column in columns.items())


def quoted(table: str) -> str:
    """
    Return *table*, "schema.table", as SQL.

    Raises:
        ValueError: the name is invalid.

    """
    schema, _, name = table.partition(".")
    if not (_NAME.fullmatch(schema) and _NAME.fullmatch(name)):
        raise ValueError(f"table: {table!r} is not schema.table, of letters, digits and underscores")
    return f'"{schema}"."{name}"'
