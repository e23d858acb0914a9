"""`noetl-events verify`, run as a user runs it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from noetl_events import encode
from noetl_events.testing import make_events
from noetl_events.testing.nats_server import NatsServer
from tests.cli.command import run
from tests.cli.test_commands import result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNT = 3_000


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Return a server with a stream of `COUNT` events."""
    with NatsServer(store_dir=tmp_path_factory.mktemp("nats")) as started:
        run("stream", "ensure", nats=started.url)
        lines = [encode(event) for event in make_events(COUNT)]
        assert run("emit", nats=started.url, stdin=b"\n".join(lines)).returncode == 0
        yield started


@pytest.fixture
def rows(filled: NatsServer, tmp_path: Path) -> Path:
    """Return a SQLite file rebuilt from the stream."""
    path = tmp_path / "rows.db"
    assert run("rebuild", "--to", f"sqlite:///{path}", nats=filled.url).returncode == 0
    return path


def change(path: Path, statement: str) -> None:
    """Run *statement* on the file directly."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)


def test_complete(filled: NatsServer, rows: Path) -> None:
    """Exit code 0 means that the destination is complete."""
    done = run("verify", "--to", f"sqlite:///{rows}", "--json", nats=filled.url)

    assert done.returncode == 0, done.stderr
    assert result(done) == {
        "events": COUNT,
        "rows": COUNT,
        "missing": 0,
        "lost": 0,
        "different": 0,
        "duplicates": 0,
        "conflicts": 0,
        "variants": 0,
        "dead": 0,
        "extra": 0,
        "last_sequence": COUNT,
        "examples": {},
    }


def test_fault_is_named_and_mended(filled: NatsServer, rows: Path) -> None:
    """A deleted and a changed row make the exit code 1 and are reported; deleting and rebuilding repairs both."""
    change(rows, "DELETE FROM event WHERE event_id = 7")
    change(rows, f"UPDATE event SET status = 'FAILED' WHERE event_id = {COUNT}")
    done = run("verify", "--to", f"sqlite:///{rows}", "--json", nats=filled.url)
    for_people = run("verify", "--to", f"sqlite:///{rows}", nats=filled.url)
    change(rows, f"DELETE FROM event WHERE event_id = {COUNT}")
    run("rebuild", "--to", f"sqlite:///{rows}", nats=filled.url)
    mended = run("verify", "--to", f"sqlite:///{rows}", nats=filled.url)
    execution = 478775660589088776

    assert (done.returncode, for_people.returncode, mended.returncode) == (1, 1, 0)
    assert result(done)["examples"] == {
        "missing": [{"sequence": 7, "execution_id": execution, "event_id": 7}],
        "different": [{"sequence": COUNT, "execution_id": execution, "event_id": COUNT}],
    }
    assert f"missing 7 {execution} 7" in " ".join(for_people.stdout.decode().split())


def test_part(filled: NatsServer, rows: Path) -> None:
    """Events before the selected part are not compared."""
    change(rows, "DELETE FROM event WHERE event_id = 7")
    whole = run("verify", "--to", f"sqlite:///{rows}", "--from-time", "1h", "--json", nats=filled.url)
    part = run("verify", "--to", f"sqlite:///{rows}", "--from-sequence", "8", "--json", nats=filled.url)

    assert (whole.returncode, result(whole)["missing"]) == (1, 1)
    assert (part.returncode, result(part)["events"], result(part)["extra"]) == (0, COUNT - 7, 6)


@pytest.mark.parametrize(
    ("to", "code", "reason"),
    [
        pytest.param("noop:", 2, b"'noop' cannot be read back; use one of sqlite", id="scheme"),
        pytest.param("sqlite://x", 2, b"sqlite:///relative.db", id="URL"),
        pytest.param("sqlite:////nowhere/x.db", 1, b"/nowhere/x.db: unable to open database file", id="file"),
        pytest.param("jsonl:/nowhere/x.jsonl", 1, b"/nowhere/x.jsonl: No such file", id="recording"),
        pytest.param("postgresql://u:secret@127.0.0.1:1/x", 1, b"postgresql://***@127.0.0.1:1/x: ", id="server"),
        pytest.param("postgresql://h/x?table=a;b", 2, b"table: 'a;b' is not schema.table", id="table"),
    ],
)
def test_unreadable_destination_is_named(filled: NatsServer, to: str, code: int, reason: bytes) -> None:
    """A line reports the unreadable destination, without secrets."""
    done = run("verify", "--to", to, nats=filled.url)

    assert done.returncode == code
    assert reason in done.stderr
    assert b"secret" not in done.stderr
