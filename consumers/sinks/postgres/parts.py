"""How a batch is cut at the rows the table refuses, until each of those stands alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consumers.sinks.postgres.errors import line_of, missing_parent_of

if TYPE_CHECKING:
    from asyncpg import PostgresError

    from consumers.sinks.postgres.rows import Row

# Where one row was refused others may follow, and what stands behind such a row is sent in vain.
_NEXT_ROWS: Final = 500


def is_refused(rows: list[Row], refusal: PostgresError) -> bool:
    """Return whether *refusal* is about every one of *rows*: there is one, or they share the parent that is missing."""
    parent = missing_parent_of(refusal)
    return len(rows) == 1 or (parent is not None and all(row.catalog_id == parent for row in rows))


def cut(rows: list[Row], refusal: PostgresError) -> list[list[Row]]:
    """Return *rows* in parts, the refused ones apart if *refusal* tells which these are, else in halves."""
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
