"""SQLite: an event with an existing key is compared with the stored row."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs
from structlog.testing import capture_logs

from consumers.sinks.sqlite import SqliteSink, create_schema
from noetl_events import SinkUnavailable
from noetl_events.identity import digest
from noetl_events.testing import make_event, make_events
from tests.sinks.conflicts import another, emit
from tests.sinks.test_sqlite import COLUMNS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

OLD_TABLE = f"CREATE TABLE event ({COLUMNS}, PRIMARY KEY (execution_id, event_id))"


@pytest.fixture(params=["digest", "old file"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a path without a file, or a file of the first version."""
    if request.param == "old file":
        execute(tmp_path / "events.db", OLD_TABLE)
    return tmp_path / "events.db"


@pytest.fixture
async def sink(path: Path) -> AsyncIterator[SqliteSink]:
    """Return a sink on the file."""
    opened = SqliteSink(str(path))
    yield opened
    await opened.aclose()


def execute(path: Path, statement: str) -> list[Any]:
    """Execute *statement* over a separate connection, and return the rows."""
    with closing(sqlite3.connect(path)) as database, database:
        return database.execute(statement).fetchall()


async def test_conflict_is_rejected_and_its_neighbours_are_stored(sink: SqliteSink, path: Path) -> None:
    """The stored row stays and the reason names it; of two events in one batch the first is stored."""
    await sink.emit_batch(make_events(3))
    reasons = await emit(sink, [make_event(4), another(2), another(5), make_event(5), another(5), make_event(3)])

    assert [*reasons] == [1, 3]
    assert "'command.completed' of step 'fetch_calendar' at 2026-05-31T03:14:15.125456Z; this one" in reasons[1]
    types = [event_type for (event_type,) in execute(path, "SELECT event_type FROM event ORDER BY event_id")]
    assert types == [*["command.completed"] * 4, "step.enter"]
    assert (sink.duplicates, sink.conflicts, sink.variants) == (2, 2, 0)


async def test_same_id_in_another_execution_is_another_key(sink: SqliteSink, path: Path) -> None:
    """Equal ids in different executions are different keys: both events are stored."""
    assert await emit(sink, [make_event(1), make_event(1, execution_id=8)]) == {}
    assert execute(path, "SELECT count(*) FROM event") == [(2,)]


async def test_other_payload_is_a_variant(sink: SqliteSink) -> None:
    """The same event with another payload is neither rejected nor stored: it is counted, and logged once a batch."""
    await sink.emit_batch(make_events(5))
    with capture_logs() as logs:
        assert await emit(sink, [structs.replace(event, context="masked") for event in make_events(6)]) == {}

    assert (sink.variants, sink.duplicates, sink.conflicts) == (5, 5, 0)
    assert [(line["event"], line["events"]) for line in logs] == [("sqlite.variants", 5)]


@pytest.mark.parametrize("digests", ["kept", "gone"])
@pytest.mark.parametrize(
    "rewrite",
    [
        pytest.param("created_at = substr(created_at, 1, 23) || 'Z'", id="milliseconds"),
        pytest.param("created_at = substr(created_at, 1, 19)", id="seconds without a zone"),
        pytest.param("created_at = replace(substr(created_at, 1, 19), 'T', ' ')", id="as SQLite writes it"),
        pytest.param("created_at = substr(created_at, 1, 10)", id="a day"),
        pytest.param("created_at = datetime()", id="arrival"),
        pytest.param("created_at = unixepoch(created_at)", id="a number"),
        pytest.param("context = '{\"masked\": true}'", id="masked"),
        pytest.param("context = CAST(' ' || context AS BLOB), meta = '{\"attempts\": 0.0}'", id="written anew"),
    ],
)
async def test_rewritten_row_is_no_conflict(tmp_path: Path, rewrite: str, digests: str) -> None:
    """A row that another writer changed still matches its event, and another event is still a conflict."""
    path = tmp_path / "events.db"
    sink = SqliteSink(str(path))
    events = make_events(20)
    await sink.emit_batch(events)
    execute(path, f"UPDATE event SET {rewrite}{', digest = NULL' if digests == 'gone' else ''}")

    assert await emit(sink, events) == {}
    assert [*await emit(sink, [another(7), *events])] == [0]
    assert execute(path, "SELECT count(*) FROM event") == [(20,)]
    await sink.aclose()


async def test_rows_of_both_versions_side_by_side(tmp_path: Path) -> None:
    """The first version writes no digest into a file that has the column; neither version duplicates an event."""
    path = tmp_path / "events.db"
    sink = SqliteSink(str(path))
    await sink.emit_batch(make_events(2))
    execute(path, f"INSERT INTO event ({COLUMNS}) SELECT 5, {COLUMNS.partition(', ')[2]} FROM event")

    assert (
        await emit(sink, [*make_events(2), *[structs.replace(each, execution_id=5) for each in make_events(3)]]) == {}
    )
    rows = execute(path, "SELECT digest FROM event ORDER BY execution_id, event_id")
    assert [each for (each,) in rows][2:] == [digest(make_event(3, execution_id=5)), *map(digest, make_events(2))]
    assert [each for (each,) in rows][:2] == [None, None]
    await sink.aclose()


async def test_upgrade_adds_the_digest(tmp_path: Path) -> None:
    """`schema --upgrade` adds the column to a file of the first version, and creates a missing file."""
    path = tmp_path / "events.db"
    execute(path, OLD_TABLE)
    url = f"sqlite:///{path}"

    assert not create_schema(url)
    assert create_schema(url, upgrade=True)
    assert create_schema(url, upgrade=True)
    assert create_schema(f"sqlite:///{tmp_path}/new.db")
    with pytest.raises(SinkUnavailable, match="unable to open"):
        create_schema(f"sqlite:///{tmp_path}/missing/new.db")


async def test_trigger_that_masks_makes_no_conflict_of_what_is_new(sink: SqliteSink, path: Path) -> None:
    """A row that a trigger changes during the insert is not compared with its event."""
    await sink.emit_batch(make_events(1))
    execute(
        path,
        "CREATE TRIGGER mask AFTER INSERT ON event BEGIN UPDATE event SET context = '1', created_at = datetime(), "
        "status = 'x' WHERE event_id = NEW.event_id; END",
    )

    assert await emit(sink, make_events(5)) == {}
    assert (sink.duplicates, sink.variants) == (1, 0)
