"""SQLite: the contract, and the specifics of a file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from msgspec import Raw

from consumers.sinks.sqlite import SqliteSink
from noetl_events import ExecutorEvent, SinkUnavailable, decode
from noetl_events.testing import SinkContract, make_event, make_events

if TYPE_CHECKING:
    from pathlib import Path

    from noetl_events import EventSink


COLUMNS = "execution_id, event_id, event_type, step, status, created_at, context, worker_id, meta"


def read_rows(path: Path) -> list[ExecutorEvent]:
    """Return the events in *path*, read over a separate connection."""
    with closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT name FROM sqlite_master WHERE name = 'event'").fetchall()
        rows = database.execute(f"SELECT {COLUMNS} FROM event ORDER BY rowid").fetchall() if found else []
    return [event_of(row) for row in rows]


def event_of(row: tuple[int, int, str, str, str, str, str, str | None, str | None]) -> ExecutorEvent:
    """Return the event of a row."""
    execution_id, event_id, event_type, step, status, created_at, context, worker_id, meta = row
    body = make_event(
        event_id, execution_id=execution_id, event_type=event_type, step=step, status=status, worker_id=worker_id
    )
    created = decode(
        b'{"execution_id":1,"event_type":"","step":"","status":"","context":1,"created_at":"%b"}' % created_at.encode()
    ).created_at
    return ExecutorEvent(
        execution_id=body.execution_id,
        event_type=event_type,
        step=step,
        status=status,
        created_at=created,
        context=Raw(context.encode()),
        event_id=event_id,
        worker_id=worker_id,
        meta=None if meta is None else Raw(meta.encode()),
    )


class TestSqliteSink(SinkContract):
    """SqliteSink keeps the contract of a sink."""

    keyed = True

    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.path = tmp_path / "events.db"

    def open(self) -> EventSink:
        """Return a new sink on the same file."""
        return SqliteSink.from_url(f"sqlite:///{self.path}")

    async def stored(self) -> list[ExecutorEvent]:
        """Return the rows of the file."""
        return read_rows(self.path)

    async def test_missing_folder_is_an_outage(self) -> None:
        """A missing folder, perhaps an unmounted volume, is reported, and the sink works once it exists."""
        self.path = self.path.parent / "volume" / "events.db"
        sink = self.open()
        with pytest.raises(SinkUnavailable, match=str(self.path)):
            await sink.emit(make_event(1))
        self.path.parent.mkdir()
        await sink.emit(make_event(1))

        await self.assert_stored([make_event(1)])
        await sink.aclose()

    async def test_locked_file_is_an_outage(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """While another process locks the file nothing is stored; later the same events are."""
        monkeypatch.setattr("consumers.sinks.sqlite._BUSY_TIMEOUT", 0.05)
        sink = self.open()
        await sink.emit(make_event(1))
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(SinkUnavailable, match="locked"):
                await sink.emit_batch(make_events(3))
            other.execute("ROLLBACK")
        await sink.emit_batch(make_events(3))

        await self.assert_stored(make_events(3))
        await sink.aclose()

    async def test_commits_reach_the_disk(self) -> None:
        """The journal mode is WAL, and each commit is synced."""
        sink = SqliteSink(str(self.path))
        await sink.emit(make_event(1))
        database = sink._database
        assert database is not None

        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("PRAGMA synchronous").fetchone() == (2,)
        await sink.aclose()

    async def test_another_table_is_a_bug_and_not_an_outage(self) -> None:
        """A table `event` of another shape raises instead of retrying, as a wait would not repair it."""
        with closing(sqlite3.connect(self.path)) as database:
            database.execute("CREATE TABLE event (x)")
        sink = self.open()
        with pytest.raises(sqlite3.OperationalError, match="no column"):
            await sink.emit(make_event(1))
        await sink.aclose()

    async def test_file_that_is_no_database_is_left_alone(self) -> None:
        """A file that is no database stays unchanged, so a mistyped path destroys nothing."""
        text = "not a database, but somebody's notes\n" * 100
        self.path.write_text(text)
        sink = self.open()
        with pytest.raises(sqlite3.DatabaseError, match="not a database"):
            await sink.emit(make_event(1))
        await sink.aclose()

        assert self.path.read_text() == text


@pytest.mark.parametrize("url", ["sqlite:///", "sqlite:", "sqlite://host/x.db", "sqlite:///x.db?mode=ro"])
def test_wrong_url_is_refused(url: str) -> None:
    """The error shows the two valid forms."""
    with pytest.raises(ValueError, match=r"sqlite:///relative\.db or sqlite:////absolute\.db"):
        SqliteSink.from_url(url)
