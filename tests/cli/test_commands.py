"""The command line, run as a user runs it: results, exit codes, and one line instead of a traceback."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from noetl_events import encode
from noetl_events.testing import make_events
from noetl_events.testing.nats_server import NatsServer
from tests.cli.command import environment, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROWS = [
    {
        "execution_id": "543942402780693277",
        "created_at": f"2026-01-20T11:56:27.{number:06}",
        "event_id": 543942402780693278 + number,
        "event_type": "command.issued",
        "node_name": "start",
        "status": "PENDING",
        "node_type": "http",
    }
    for number in range(60)
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Return a server with the streams that `stream ensure` makes."""
    with NatsServer(store_dir=tmp_path_factory.mktemp("nats")) as started:
        assert run("stream", "ensure", nats=started.url).returncode == 0
        yield started


def project_until(server: NatsServer, to: str, count: int, path: Path) -> int:
    """Run `noetl-events project` until *path* has *count* rows, end it by SIGTERM, and return its exit code."""
    command = [sys.executable, "-m", "consumers", "project", "--to", to, "--durable", path.stem]
    with subprocess.Popen(command, env=environment(server.url), stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_rows(path, count, process)
            process.terminate()
            return process.wait(180)
        finally:
            process.kill()


def wait_for_rows(path: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Return once the table in *path* has *count* rows; fail if the process ends earlier."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if path.exists() and rows_in(path) >= count:
            return
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"project ended with {process.returncode}")
    pytest.fail(f"{rows_in(path)} rows of {count}")


def rows_in(path: Path) -> int:
    """Return the number of events in the SQLite file."""
    with closing(sqlite3.connect(path, timeout=60)) as database:
        try:
            count: int = database.execute("SELECT count(*) FROM event").fetchone()[0]
        except sqlite3.OperationalError:
            return 0
    return count


def result(done: subprocess.CompletedProcess[bytes]) -> Any:
    """Return the JSON that a command printed."""
    return json.loads(done.stdout)


def test_real_run_in_row_shape_becomes_rows(own_server: NatsServer, tmp_path: Path) -> None:
    """60 events of another writer (times without a zone, ids as strings, node_name) become 60 complete rows."""
    run("stream", "ensure", nats=own_server.url)
    file = tmp_path / "run.ndjson"
    file.write_text("\n".join(json.dumps(row) for row in ROWS))
    emitted = run("emit", str(file), "--json", nats=own_server.url)
    path = tmp_path / "rows.db"

    assert result(emitted) == {"stored": 60, "rejected": 0, "malformed": 0}
    assert emitted.returncode == 0
    assert project_until(own_server, f"sqlite:///{path}", 60, path) == 0
    with closing(sqlite3.connect(path)) as database:
        first = database.execute("SELECT * FROM event ORDER BY event_id").fetchone()
    assert first[:3] == (543942402780693277, 543942402780693278, "command.issued")
    # The digest stands behind these columns.
    assert first[3:9] == ("start", "PENDING", "2026-01-20T11:56:27.000000Z", "null", None, '{"node_type":"http"}')


@pytest.mark.parametrize("named", [[], ["-"]], ids=["unsaid", "said"])
def test_emit_reads_a_pipe_and_names_what_is_no_event(server: NatsServer, named: list[str]) -> None:
    """A bad line is reported with its reason, its neighbours are stored, and the exit code is not 0."""
    lines = [encode(event) for event in make_events(3)]
    piped = b"\n".join([lines[0], b'{"execution_id": 1}', *lines[1:]])
    done = run("emit", *named, "--json", nats=server.url, stdin=piped)

    assert done.returncode == 1
    assert result(done) == {"stored": 3, "rejected": 0, "malformed": 1}
    assert b"-:2: event_type: missing, and required" in done.stderr


def test_emit_gives_up_when_nats_stays_away() -> None:
    """After the wait the exit code is 1, and the reason names the server."""
    done = run("emit", "--wait", "0.5", stdin=encode(make_events(1)[0]))

    assert done.returncode == 1
    assert b"cannot connect to nats://127.0.0.1:1" in done.stderr


def test_replay_stores_once(tmp_path: Path) -> None:
    """A recording replayed twice leaves each event once."""
    recording = tmp_path / "run.jsonl"
    recording.write_bytes(b"".join(encode(event) + b"\n" for event in make_events(700)))
    target = tmp_path / "rows.db"
    for _ in range(2):
        done = run("replay", str(recording), "--to", f"sqlite:///{target}", "--json")
        assert result(done) == {"stored": 700, "rejected": 0}

    assert rows_in(target) == 700


def test_tail_prints_what_is_stored(server: NatsServer) -> None:
    """`tail --json` prints each body unchanged in stream order; without it, a line for people."""
    bodies = [encode(event) for event in make_events(5, start=1_000)]
    run("emit", nats=server.url, stdin=b"\n".join(bodies))
    printed = run("tail", "--from-start", "--until-end", "--json", nats=server.url).stdout.splitlines()
    for_people = run("tail", "--from-start", "--until-end", nats=server.url).stdout.decode()

    assert printed[-5:] == bodies
    assert "command.completed  fetch_calendar  COMPLETED  worker-7" in for_people


def test_stream_ensure_refuses_what_differs(server: NatsServer) -> None:
    """A stream that is not as declared is reported field by field, and stays unchanged."""
    again = run("stream", "ensure", nats=server.url)
    wrong = subprocess.run(
        [sys.executable, "-m", "consumers", "stream", "ensure"],
        env=environment(server.url) | {"NOETL_EVENT_STREAM_RETENTION_SECS": "600"},
        capture_output=True,
        check=False,
        timeout=300,
    )

    assert again.returncode == 0
    assert wrong.returncode == 2
    assert b"max_age: 86400.0 on the server, 600.0 declared: events are kept longer than declared" in wrong.stderr


def test_stream_show_says_what_is_missing(own_server: NatsServer) -> None:
    """Without the stream the exit code is 1 and the remedy is printed."""
    done = run("stream", "show", nats=own_server.url)

    assert done.returncode == 1
    assert b"stream noetl_events does not exist; run `noetl-events stream ensure`" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        pytest.param(["project", "--to", "nowhere://x"], b"'nowhere' is not a known scheme", id="unknown scheme"),
        pytest.param(["project", "--to", "sqlite://x"], b"sqlite:///relative.db", id="wrong sqlite URL"),
        pytest.param(["project", "--to", "postgres:nonsense"], b"postgresql://user@host", id="no slashes"),
        pytest.param(["replay", "/nowhere.jsonl", "--to", "noop:"], b"/nowhere.jsonl", id="missing file"),
        pytest.param(["emit", "/nowhere.ndjson"], b"/nowhere.ndjson", id="missing input"),
        pytest.param(["emit", "--frobnicate"], b"unknown option --frobnicate", id="unknown option of emit"),
        pytest.param(["emit", "--nats", "http://x"], b"is not a NATS URL", id="wrong NATS URL"),
        pytest.param(["demo", "--to", "nats://x"], b"cannot be read back", id="demo destination"),
        pytest.param(["demo", "--events", "0"], b"Must be >= 1", id="no events"),
        pytest.param(["project"], b"--to", id="missing option"),
        pytest.param(["frobnicate"], b"frobnicate", id="unknown command"),
    ],
)
def test_wrong_input_is_named(arguments: list[str], reason: bytes) -> None:
    """Wrong input ends with exit code 2 and a line that names the input."""
    done = run(*arguments)

    assert done.returncode == 2
    assert reason in done.stderr


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        pytest.param(
            {"NOETL_EVENT_STREAM_RETENTION_SECS": "a day"},
            b"NOETL_EVENT_STREAM_RETENTION_SECS: 'a day'",
            id="no number",
        ),
        pytest.param({"NATS_PASSWORD_FILE": "/nowhere"}, b"NATS_PASSWORD_FILE: '/nowhere'", id="missing secret"),
        pytest.param(
            {"NATS_TLS_CERT": "/c.pem"},
            b"NATS_TLS_CERT, nats.tls_key (NATS_TLS_KEY): mutual TLS needs both",
            id="half of mutual TLS",
        ),
        pytest.param({"NOETL_LOG_LEVEL": "loud"}, b"log level: 'loud'", id="log level"),
    ],
)
def test_wrong_setting_is_named(variables: dict[str, str], reason: bytes) -> None:
    """An unusable setting ends with exit code 2 and the name of its variable."""
    done = subprocess.run(
        [sys.executable, "-m", "consumers", "stream", "show"],
        env=os.environ | variables,
        capture_output=True,
        check=False,
        timeout=300,
    )

    assert done.returncode == 2
    assert reason in done.stderr
    assert b"Traceback" not in done.stderr


COMMANDS = [
    ["bench", "publish"],
    ["demo"],
    ["emit"],
    ["health"],
    ["project"],
    ["rebuild"],
    ["replay"],
    ["tail"],
    ["stream", "ensure"],
    ["stream", "show"],
    ["schema"],
    ["verify"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(command: list[str]) -> None:
    """The help of every command has an example."""
    done = run(*command, "--help")

    assert done.returncode == 0
    assert f"Example: noetl-events {' '.join(command)}" in " ".join(done.stdout.decode().split())


@pytest.mark.parametrize("destination", [[], ["--postgres"]], ids=["SQLite", "Postgres"])
def test_demo_ends_with_a_true_summary(destination: list[str]) -> None:
    """The demo stores every event at its destination, and its summary is read from there."""
    done = run("demo", "--events", "3000", "--rate", "0", "--json", *destination)
    summary = result(done)

    assert done.returncode == 0, done.stderr
    assert (summary["published"], summary["projected"]) == (3000, 3000)
    assert (summary["lost"], summary["duplicates"], summary["dead_letters"]) == (0, 0, 0)
    assert summary["emit_to_row_p99_ms"] >= summary["emit_to_row_p50_ms"] > 0


def test_bench_measures_a_publish() -> None:
    """The bench ends with the numbers of stored messages."""
    done = run("bench", "publish", "--events", "2000", "--concurrency", "50", "--json")
    figures = result(done)

    assert done.returncode == 0, done.stderr
    assert (figures["events"], figures["concurrency"], figures["mode"]) == (2000, 50, "fast")
    assert 350 <= figures["envelope_bytes"] <= 450
    assert figures["emit_p99_ms"] >= figures["emit_p50_ms"] > 0
