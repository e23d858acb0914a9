"""The table events are kept in: its name, the SQL for it, how it is made, and whether it is what a mapping needs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Mapping as Dictionary

    from asyncpg import Connection, Record

    from consumers.sinks.postgres.mapping import Mapping

DEFAULT_TABLE: Final = "noetl.event"

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")
_KEY: Final = ("execution_id", "event_id")
_NOT_NULL: Final = " NOT NULL"
_REMEDY: Final = "alter it, or name another with ?table= or ?mapping="

_READ_COLUMNS: Final = """
SELECT attname AS name, format_type(atttypid, NULL) AS kind, attnotnull AS required,
       atthasdef OR attidentity <> '' AS filled
FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
"""
# What ON CONFLICT can name: every row's, at once, and on the columns themselves.
_READ_KEYS: Final = """
SELECT array_agg(attname ORDER BY attname)::text[] AS key
FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
WHERE indrelid = to_regclass($1) AND indisunique AND indisvalid AND indimmediate AND indpred IS NULL
      AND indexprs IS NULL AND indnkeyatts = indnatts
GROUP BY indexrelid
"""


class TableMismatch(ValueError):
    """The table is not there, or not as the mapping needs it; it was left as it is."""


class Table:
    """
    A table, and what is asked of it to hold the rows of *mapping*.

    Raises:
        ValueError: *name* is no schema.table.

    """

    def __init__(self, name: str, mapping: Mapping) -> None:
        self.name: Final = name
        self.columns: Final = mapping.columns
        self._quoted: Final = quoted(name)
        # Named by its columns: in a session of a pooler, another mapping or version may have left one too.
        self.staging: Final = f"noetl_events_{crc32(_listed(self.columns).encode()):08x}"

    @property
    def schema(self) -> str:
        """The first part of its name."""
        return self.name.partition(".")[0]

    @property
    def relation(self) -> str:
        """The second part of its name."""
        return self.name.partition(".")[2]

    @property
    def create_staging(self) -> str:
        """The statement that makes the staging table of this session, where it has none yet."""
        return f"CREATE TEMPORARY TABLE IF NOT EXISTS {self.staging} ({_listed(self.columns)}) ON COMMIT DELETE ROWS"

    @property
    def insert_staged(self) -> str:
        """
        The statement that carries the staged rows over.

        Sorted, so that two projectors that insert the same rows wait for each other instead of locking up.  The
        conflict is named: without it, a conflict with any other unique index would drop a row in silence.
        """
        names = ", ".join(self.columns)
        return (
            f"INSERT INTO {self._quoted} ({names}) "  # noqa: S608  (the table is quoted, the columns are ours)
            f"SELECT {names} FROM pg_temp.{self.staging} ORDER BY event_id, execution_id "
            f"ON CONFLICT ({', '.join(_KEY)}) DO NOTHING"
        )

    async def create(self, connection: Connection) -> None:
        """Create schema and table if they are missing."""
        schema = self._quoted.partition(".")[0]
        # Looked for first: IF NOT EXISTS wants a right for what is there, too.
        if await connection.fetchval("SELECT to_regnamespace($1) IS NULL", schema):
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        await connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self._quoted} ({_listed(self.columns)}, PRIMARY KEY ({', '.join(_KEY)}))"
        )

    async def check(self, connection: Connection) -> None:
        """
        Compare the table with what the mapping writes; columns that fill themselves may be there besides.

        In a transaction, since a pooler may give each statement outside one to another session.

        Raises:
            TableMismatch: naming everything that is missing or different.

        """
        found = {row["name"]: row for row in await connection.fetch(_READ_COLUMNS, self._quoted)}
        if not found:
            raise TableMismatch(f"table {self.name} is missing; `noetl-events schema URL` creates it, NoETL its own")
        keys = [row["key"] for row in await connection.fetch(_READ_KEYS, self._quoted)]
        differences = [*_differences(self.columns, found), *_surplus(self.columns, found)]
        if sorted(_KEY) not in keys:
            differences.append(f"there is no primary key ({', '.join(_KEY)})")
        if differences:
            raise TableMismatch(f"table {self.name} differs from what is written: {'; '.join(differences)}; {_REMEDY}")


def _differences(declared: Dictionary[str, str], found: Dictionary[str, Record]) -> Iterator[str]:
    for name, column in declared.items():
        kind = column.removesuffix(_NOT_NULL)
        if name not in found:
            yield f"{name} {kind} is missing"
        elif found[name]["kind"] not in _same(kind):
            yield f"{name} is {found[name]['kind']}, not {kind}"
        elif found[name]["required"] and kind == column:
            yield f"{name} is NOT NULL, and not every event has one"


def _surplus(declared: Dictionary[str, str], found: Dictionary[str, Record]) -> Iterator[str]:
    for name, column in found.items():
        if name not in declared and column["required"] and not column["filled"]:
            yield f"{name} is NOT NULL without a default, and nothing is written there"


def _same(kind: str) -> tuple[str, ...]:
    # One in the binary format too, and NoETL's own table has the second.
    return ("text", "character varying") if kind == "text" else (kind,)


def _listed(columns: Dictionary[str, str]) -> str:
    return ", ".join(f"{name} {column}" for name, column in columns.items())


def quoted(table: str) -> str:
    """
    Return *table*, "schema.table", as SQL.

    Raises:
        ValueError: it is no such name.

    """
    schema, _, name = table.partition(".")
    if not (_NAME.fullmatch(schema) and _NAME.fullmatch(name)):
        raise ValueError(f"table: {table!r} is not schema.table, of letters, digits and underscores")
    return f'"{schema}"."{name}"'
