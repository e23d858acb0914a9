"""`noetl-events schema`: the tables it creates, the differences it reports, and the result of `--upgrade`."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from tests.cli.command import run
from tests.cli.test_commands import result
from tests.sinks.conftest import database_url, postgres_url
from tests.sinks.postgres_database import execute
from tests.sinks.test_sqlite_conflicts import OLD_TABLE

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["database_url", "postgres_url"]


def test_sqlite_file(tmp_path: Path) -> None:
    """A missing file is created; one of the first version is reported without digest until it is upgraded."""
    with closing(sqlite3.connect(tmp_path / "old.db")) as database:
        database.execute(OLD_TABLE)
    new, old = (f"sqlite:///{tmp_path}/{name}.db" for name in ("new", "old"))
    before = run("schema", old, "--json")
    after = run("schema", old, "--upgrade", "--json")

    assert result(run("schema", new, "--json")) == {"database": new, "table": "event", "ready": True, "digest": True}
    assert (result(before)["digest"], b"schema URL --upgrade" in before.stderr) == (False, True)
    assert (result(after)["digest"], after.stderr) == (True, b"")


def test_sqlite_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """The file is named, and no traceback is shown."""
    done = run("schema", f"sqlite:///{tmp_path}/missing/new.db")

    assert done.returncode == 1
    assert f"{tmp_path}/missing/new.db: unable to open".encode() in done.stderr
    assert b"Traceback" not in done.stderr


async def test_postgres_table(database_url: str) -> None:
    """A table of the first version works, and is upgraded; NoETL's own table is refused by name."""
    made = run("schema", database_url, "--json")
    await execute(database_url, "ALTER TABLE noetl.event DROP COLUMN digest")
    before = run("schema", database_url, "--json")
    after = run("schema", database_url, "--upgrade", "--json")
    theirs = run("schema", f"{database_url}?mapping=noetl", "--upgrade")

    assert [result(each)["digest"] for each in (made, before, after)] == [True, False, True]
    assert (theirs.returncode, b"noetl-events adds no column to NoETL's own table" in theirs.stderr) == (2, True)
