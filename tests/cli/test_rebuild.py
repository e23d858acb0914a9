"""`noetl-events rebuild`, run as a user runs it."""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from noetl_events import encode
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.testing import make_events
from noetl_events.testing.nats_server import NatsServer
from tests.cli.command import environment, run
from tests.cli.test_commands import result, rows_in, wait_for_rows
from tests.jetstream.past import publish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNT = 5_000
# Each row takes some milliseconds, so the run cannot end before the test has looked.
DAWDLE = """
CREATE TRIGGER dawdle BEFORE INSERT ON event BEGIN
    SELECT max(n) FROM (WITH RECURSIVE counting(n) AS (VALUES(1) UNION ALL SELECT n + 1 FROM counting LIMIT 20000)
                        SELECT n FROM counting);
END
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Return a server with a stream of `COUNT` events."""
    with NatsServer(store_dir=tmp_path_factory.mktemp("nats")) as started:
        run("stream", "ensure", nats=started.url)
        lines = [encode(event) for event in make_events(COUNT)]
        assert run("emit", nats=started.url, stdin=b"\n".join(lines)).returncode == 0
        yield started


async def publish_raw(url: str, body: bytes) -> None:
    """Store *body* as another writer would."""
    async with Connection(ConnectOptions(servers=url)) as connection:
        await publish(connection, "noetl.events.x", [body])


def test_past_becomes_rows(filled: NatsServer, tmp_path: Path) -> None:
    """Every event of the stream becomes a row, and the result has the count."""
    path = tmp_path / "rows.db"
    done = run("rebuild", "--to", f"sqlite:///{path}", "--json", nats=filled.url)

    assert done.returncode == 0, done.stderr
    assert result(done) == {
        "stored": COUNT,
        "rejected": 0,
        "conflicts": 0,
        "malformed": 0,
        "last_sequence": COUNT,
        "faults": [],
    }
    assert rows_in(path) == COUNT


@pytest.mark.parametrize(
    ("options", "stored"),
    [
        pytest.param(["--from-sequence", "4991"], 10, id="from a sequence"),
        pytest.param(["--from-sequence", "5001"], 0, id="beyond the end"),
        pytest.param(["--from-time", "1h"], COUNT, id="from an age"),
        pytest.param(["--from-time", "2100-01-01T00:00:00Z"], 0, id="from a time to come"),
        pytest.param(["--execution", "478775660589088776"], COUNT, id="an execution"),
        pytest.param(["--execution", "1"], 0, id="another execution"),
    ],
)
def test_parts(filled: NatsServer, options: list[str], stored: int) -> None:
    """Options select a part of the stream."""
    done = run("rebuild", "--to", "noop:", "--json", *options, nats=filled.url)

    assert (done.returncode, result(done)["stored"]) == (0, stored)


def execute(path: Path, statement: str) -> None:
    """Run *statement* in the SQLite file."""
    with closing(sqlite3.connect(path, timeout=60)) as database, database:
        database.execute(statement)


def test_interrupted_says_where_to_go_on(filled: NatsServer, tmp_path: Path) -> None:
    """Ctrl-C ends with 130 and a sequence; continued from there, every event is a row."""
    path = tmp_path / "rows.db"
    # The last row creates the table.
    run("rebuild", "--to", f"sqlite:///{path}", "--from-sequence", str(COUNT), nats=filled.url)
    execute(path, DAWDLE)
    command = [sys.executable, "-m", "consumers", "rebuild", "--to", f"sqlite:///{path}"]
    variables = environment(filled.url) | {"NOETL_EVENT_STREAM_BATCH": "10"}
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE) as process:
        try:
            wait_for_rows(path, 30, process)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=180)
        finally:
            process.kill()
    said = re.search(rb"continue with --from-sequence (\d+)", stderr)
    assert said, stderr.decode()
    execute(path, "DROP TRIGGER dawdle")
    resumed = run("rebuild", "--to", f"sqlite:///{path}", "--from-sequence", said[1].decode(), nats=filled.url)

    assert process.returncode == 130
    assert 1 < int(said[1]) <= COUNT
    assert resumed.returncode == 0
    assert rows_in(path) == COUNT


def test_malformed_message_is_named(own_server: NatsServer, tmp_path: Path) -> None:
    """A message that is no event is reported by sequence; all others are stored, and the exit code is not 0."""
    run("stream", "ensure", nats=own_server.url)
    run("emit", nats=own_server.url, stdin=b"\n".join(encode(event) for event in make_events(3)))
    asyncio.run(publish_raw(own_server.url, b"junk"))
    done = run("rebuild", "--to", f"sqlite:///{tmp_path}/rows.db", "--json", nats=own_server.url)

    assert done.returncode == 0
    assert (result(done)["stored"], result(done)["malformed"]) == (3, 1)
    assert result(done)["faults"][0]["sequence"] == 4
    assert b"event.not_copied" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        pytest.param(["--from-time", "x"], 2, b"--from-time: 'x' is neither a time", id="time"),
        pytest.param(["--from-time", "1h", "--from-sequence", "1"], 2, b"give one of them", id="two starts"),
        pytest.param(["--from-sequence", "0"], 2, b"Must be >= 1", id="sequence"),
        pytest.param(["--wait", "0.3", "--nats", "nats://127.0.0.1:1"], 1, b"cannot connect to", id="no server"),
    ],
)
def test_wrong_input_is_named(arguments: list[str], code: int, reason: bytes) -> None:
    """A line reports the fault."""
    done = run("rebuild", "--to", "noop:", *arguments)

    assert done.returncode == code
    assert reason in done.stderr


def test_missing_stream_is_named(own_server: NatsServer) -> None:
    """The line has the remedy."""
    done = run("rebuild", "--to", "noop:", nats=own_server.url)

    assert done.returncode == 1
    assert b"stream noetl_events does not exist; run `noetl-events stream ensure`" in done.stderr
