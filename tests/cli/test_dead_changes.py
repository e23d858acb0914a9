"""`noetl-events dead retry`, `edit` and `purge`, run as a user runs them, on a real server."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from noetl_events import encode
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import DEAD_LETTERS
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.testing import make_event
from tests.cli.command import environment, run
from tests.cli.letters import MALFORMED, lines, messages_in, three
from tests.cli.test_commands import result

if TYPE_CHECKING:
    from pathlib import Path

    from noetl_events.testing.nats_server import NatsServer


@pytest.fixture
def server(own_server: NatsServer) -> NatsServer:
    """Return a server with the streams."""
    assert run("stream", "ensure", nats=own_server.url).returncode == 0
    return own_server


def test_retry_says_what_happened_to_each(server: NatsServer) -> None:
    """A resent dead letter is removed; one that is gone already is no failure."""
    three(server)
    dry = run("dead", "retry", "--all", "--dry-run", "--json", nats=server.url)
    first = run("dead", "retry", "2", "--json", nats=server.url)
    others = run("dead", "retry", "2", "3", nats=server.url)

    assert [each["outcome"] for each in lines(dry)] == ["would be retried"] * 3
    assert lines(first) == [{"sequence": 2, "outcome": "retried", "subject": "noetl.events.x", "reason": ""}]
    assert (first.returncode, others.returncode) == (0, 0)
    assert "2 already gone 3 retried noetl.events.x" in " ".join(others.stdout.decode().split())
    assert messages_in(server, DEAD_LETTERS.name) == [MALFORMED]
    assert messages_in(server, "noetl_events")[3:] == [encode(make_event(1)), encode(make_event(2, execution_id=5))]


def test_retry_all_takes_filters(server: NatsServer) -> None:
    """Only the dead letters that the filters select are resent."""
    three(server)
    done = run("dead", "retry", "--all", "--kind", "rejected", "--reason", "too long", "--json", nats=server.url)
    none = run("dead", "retry", "--all", "--kind", "fatal", nats=server.url)

    assert [each["sequence"] for each in lines(done)] == [2]
    assert none.returncode == 0
    assert b"no dead letter matches" in none.stderr


def test_retry_that_fails_keeps_the_letter(server: NatsServer) -> None:
    """For a failed resend the exit code is 1 with the reason, and the others are resent."""
    three(server)

    async def forge() -> None:
        async with Connection(ConnectOptions(servers=server.url)) as connection:
            await (await jetstream(connection)).publish("noetl.dead.odd", b"what")

    asyncio.run(forge())
    done = run("dead", "retry", "--all", "--json", nats=server.url)

    assert done.returncode == 1
    assert [each["outcome"] for each in lines(done)] == ["retried", "retried", "retried", "failed"]
    assert "does not name its subject" in lines(done)[3]["reason"]
    assert messages_in(server, DEAD_LETTERS.name) == [b"what"]


def test_edit_sends_the_corrected_payload(server: NatsServer, tmp_path: Path) -> None:
    """A payload that is no event is refused with its field; a valid one is resent, and its dead letter removed."""
    three(server)
    file = tmp_path / "corrected.json"
    file.write_bytes(b'{"execution_id": 1}')
    refused = run("dead", "edit", "1", "--file", str(file), nats=server.url)
    file.write_bytes(encode(make_event(9)))
    done = run("dead", "edit", "1", "--file", str(file), "--json", nats=server.url)

    assert refused.returncode == 2
    assert b"event_type: missing, and required" in refused.stderr
    assert f"noetl-events dead edit 1 --file {file}".encode() in refused.stderr
    assert (done.returncode, lines(done)[0]["outcome"]) == (0, "retried")
    assert messages_in(server, "noetl_events")[-1] == encode(make_event(9))
    assert len(messages_in(server, DEAD_LETTERS.name)) == 2


def edit_with(server: NatsServer, editor: str, number: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Edit a dead letter with *editor*, which has its files in *folder*."""
    variables = environment(server.url) | {"EDITOR": editor, "VISUAL": "", "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "consumers", "dead", "edit", number]
    return subprocess.run(command, env=variables, capture_output=True, check=False, timeout=180)


def test_edit_opens_an_editor(server: NatsServer, tmp_path: Path) -> None:
    """The editor gets readable JSON; the temporary file is removed if the payload was sent or unchanged."""
    three(server)
    unchanged = edit_with(server, "true", "2", tmp_path)
    edited = edit_with(server, "sed -i s/COMPLETED/CORRECTED/", "2", tmp_path)

    assert unchanged.returncode == 2
    assert b"the payload is unchanged" in unchanged.stderr
    assert edited.returncode == 0
    assert b'\n  "status": "CORRECTED",\n' in messages_in(server, "noetl_events")[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["nats"]


def test_edit_keeps_what_it_cannot_send(server: NatsServer, tmp_path: Path) -> None:
    """An edited text that could not be sent is kept, and the line names its file."""
    three(server)
    done = edit_with(server, "sed -i s/execution_id/exec/", "2", tmp_path)
    [file] = tmp_path.glob("dead-letter-*.json")

    assert done.returncode == 2
    assert b"execution_id: missing, and required" in done.stderr
    assert str(file).encode() in done.stderr
    assert edit_with(server, "", "2", tmp_path).stderr.startswith(b"noetl-events: EDITOR: not set")
    assert b"false ended with 1" in edit_with(server, "false", "2", tmp_path).stderr


def test_purge_removes_what_was_asked_for(server: NatsServer) -> None:
    """The command prints the number of removed dead letters, and leaves the others."""
    three(server)
    some = run("dead", "purge", "--kind", "malformed", "--yes", "--json", nats=server.url)
    rest = run("dead", "purge", "--all", "--yes", "--json", nats=server.url)

    assert (result(some), result(rest)) == ({"removed": 1}, {"removed": 2})
    assert messages_in(server, DEAD_LETTERS.name) == []


@pytest.mark.parametrize(("answer", "left"), [pytest.param(b"y\n", 0, id="yes"), pytest.param(b"\n", 3, id="no")])
def test_purge_asks_on_a_terminal(server: NatsServer, answer: bytes, left: int) -> None:
    """Any answer except yes leaves the dead letters in place."""
    three(server)
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    command = [sys.executable, "-m", "consumers", "dead", "purge", "--all"]
    done = subprocess.run(
        command, env=environment(server.url), stdin=theirs, capture_output=True, check=False, timeout=300
    )
    os.close(ours)
    os.close(theirs)

    assert b"Remove 3 dead letters for ever? [y/N]" in done.stdout
    assert done.returncode == (1 if left else 0)
    assert len(messages_in(server, DEAD_LETTERS.name)) == left
