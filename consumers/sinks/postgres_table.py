"""The table events are kept in: its name, its columns, and how it is made."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncpg import Connection

DEFAULT_TABLE: Final = "noetl.event"

COLUMNS: Final = {
    "execution_id": "bigint NOT NULL",
    "event_id": "bigint NOT NULL",
    "event_type": "text NOT NULL",
    "step": "text NOT NULL",
    "status": "text NOT NULL",
    "created_at": "timestamp with time zone NOT NULL",
    "context": "jsonb NOT NULL",
    "worker_id": "text",
    "meta": "jsonb",
}
STAGING: Final = "noetl_events_staging"

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")
_COLUMN_NAMES: Final = ", ".join(COLUMNS)

CREATE_STAGING: Final = (
    f"CREATE TEMPORARY TABLE {STAGING} ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())}) "
    "ON COMMIT DELETE ROWS"
)


class TableMismatch(ValueError):
    """A table of this name is there and has other columns; it was left as it is."""


def quoted(table: str) -> str:
    """
    Return *table*, "schema.table", as SQL.

    Raises:
        ValueError: it is no such name.

    """
    parts = table.split(".")
    if len(parts) != 2 or not all(_NAME.fullmatch(part) for part in parts):  # noqa: PLR2004  (schema and table)
        raise ValueError(f"table: {table!r} is not schema.table, of letters, digits and underscores")
    return ".".join(f'"{part}"' for part in parts)


def insert_from_staging(table: str) -> str:
    """
    Return the statement that carries the staged rows over.

    Sorted, so that two projectors that insert the same rows wait for each other instead of locking up.  The conflict is
    named: without it, a conflict with any other unique index would drop a row in silence.
    """
    return (
        f"INSERT INTO {quoted(table)} ({_COLUMN_NAMES}) "  # noqa: S608  (the table is quoted, the columns are ours)
        f"SELECT {_COLUMN_NAMES} FROM pg_temp.{STAGING} ORDER BY event_id, execution_id "
        "ON CONFLICT (execution_id, event_id) DO NOTHING"
    )


async def create_table(connection: Connection, table: str) -> None:
    """
    Create schema and table if they are missing.

    Raises:
        TableMismatch: the table is there and differs.

    """
    name = quoted(table)
    columns = ", ".join(f"{column} {kind}" for column, kind in COLUMNS.items())
    await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name.partition('.')[0]}")
    await connection.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns}, PRIMARY KEY (execution_id, event_id))")
    rows = await connection.fetch(
        "SELECT attname AS name, "
        "format_type(atttypid, NULL) || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END AS kind "
        "FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped",
        name,
    )
    actual = {row["name"]: row["kind"] for row in rows}
    differences = [
        f"  {column}: declared {COLUMNS.get(column, 'absent')}, in the database {actual.get(column, 'absent')}"
        for column in {**COLUMNS, **actual}
        if COLUMNS.get(column) != actual.get(column)
    ]
    if differences:
        raise TableMismatch("\n".join([f"table {table} differs and was left as it is:", *differences]))
