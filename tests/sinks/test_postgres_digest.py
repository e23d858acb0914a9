"""The digest column: tables without it, versions side by side, and the upgrade."""

from __future__ import annotations

import pytest

from consumers.sinks.postgres import PostgresSink, TableMismatch, create_schema
from noetl_events.identity import digest
from noetl_events.testing import make_event, make_events
from tests.sinks.conflicts import another, emit
from tests.sinks.postgres_database import execute, fetch

OLD_TABLE = "ALTER TABLE noetl.event DROP COLUMN digest"


async def test_rows_of_both_versions_side_by_side(database_url: str) -> None:
    """The first version writes no digest and accepts the new rows; neither version duplicates an event."""
    await create_schema(database_url)
    columns = "execution_id, event_id, event_type, step, status, created_at, context, worker_id, meta"
    first, second = make_events(10), make_events(10, start=11)
    sink = PostgresSink(database_url)
    await sink.emit_batch(first)
    await execute(
        database_url,
        "CREATE TABLE written AS SELECT * FROM noetl.event; "
        "UPDATE written SET event_id = event_id + 10, created_at = created_at + interval '10 ms', "
        "context = jsonb_build_object('result', jsonb_build_object('items', event_id + 10));"
        f"INSERT INTO noetl.event ({columns}) SELECT {columns} FROM written ORDER BY event_id, execution_id "
        "ON CONFLICT (execution_id, event_id) DO NOTHING",
    )

    assert await emit(sink, [*first, *second, another(12)]) == {20: (await emit(sink, [another(12)]))[0]}
    assert (sink.inserted, sink.variants) == (10, 0)
    digests = await fetch(database_url, "SELECT digest FROM noetl.event ORDER BY event_id")
    assert [row["digest"] for row in digests] == [*map(digest, first), *[None] * 10]
    await sink.aclose()


async def test_upgrade_adds_the_digest(database_url: str) -> None:
    """`schema --upgrade` adds the column to a table of the first version, and changes no other table."""
    await create_schema(database_url)
    await execute(database_url, OLD_TABLE)
    sink = PostgresSink(database_url)
    await sink.emit_batch(make_events(2))
    await create_schema(database_url)
    assert not (await sink.create_schema()).has_digest
    for _ in range(2):
        assert (await sink.create_schema(upgrade=True)).has_digest
    # The open session continues without the column; the next one writes it.
    await sink.emit_batch(make_events(2, start=3))
    await sink.aclose()
    again = PostgresSink(database_url)
    await again.emit_batch(make_events(6))
    rows = await fetch(database_url, "SELECT digest IS NULL AS old FROM noetl.event ORDER BY event_id")

    assert [row["old"] for row in rows] == [True] * 4 + [False] * 2
    assert (again.inserted, again.variants) == (2, 0)
    await again.aclose()


async def test_column_of_that_name_that_is_not_ours(database_url: str) -> None:
    """A column `digest` of another tool stays unchanged, and `--upgrade` reports it."""
    await create_schema(database_url)
    await execute(database_url, f"{OLD_TABLE}; ALTER TABLE noetl.event ADD digest text DEFAULT 'theirs'")
    sink = PostgresSink(database_url)
    await sink.emit_batch(make_events(2))

    assert [*await emit(sink, [another(1), make_event(2)])] == [0]
    assert {row["digest"] for row in await fetch(database_url, "SELECT digest FROM noetl.event")} == {"theirs"}
    with pytest.raises(TableMismatch, match="digest is text, not bigint"):
        await create_schema(database_url, upgrade=True)
    await sink.aclose()


async def test_noetl_table_is_not_ours_to_upgrade(database_url: str) -> None:
    """NoETL's own table gets no digest column."""
    with pytest.raises(ValueError, match="--upgrade: noetl-events adds no column to NoETL's own table"):
        await create_schema(f"{database_url}?mapping=noetl", upgrade=True)
