"""
The staging table: where a batch goes through when a row of it is there already.

Rows with a new key are carried over.  The others are compared with the row that has their key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from zlib import crc32

from consumers.sinks.postgres.mapping import DIGEST
from consumers.sinks.postgres.table import KEY, listed
from noetl_events.conflicts import Comparison, Frame

if TYPE_CHECKING:
    from asyncpg import Record

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
