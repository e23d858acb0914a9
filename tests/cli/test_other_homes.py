"""The command line with streams in another JetStream domain or another account."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from noetl_events import encode
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream, show_stream
from noetl_events.testing import make_events
from noetl_events.testing.nats_server import NatsServer, free_port
from tests.cli.command import environment, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

COUNT: Final = 300

# The API is exported under one name and imported under another: the default prefix would prove nothing.
_ACCOUNTS: Final = """
accounts {
  STORE {
    jetstream: enabled
    users: [ {user: s, password: s} ]
    exports: [
      {service: "noetl.events.>", response_type: Stream}
      {service: "noetl.dead.>"}
      {service: "noetl.trials.>"}
      {service: "$JS.API.>", response_type: Stream}
      {service: "$JS.ACK.>"}
      {stream: "$JS.EVENT.ADVISORY.>"}
    ]
  }
  WORK {
    jetstream: enabled
    users: [ {user: w, password: w} ]
    imports: [
      {service: {account: STORE, subject: "noetl.events.>"}}
      {service: {account: STORE, subject: "noetl.dead.>"}}
      {service: {account: STORE, subject: "noetl.trials.>"}}
      {service: {account: STORE, subject: "$JS.API.>"}, to: "JS.store.API.>"}
      {service: {account: STORE, subject: "$JS.ACK.>"}}
      {stream: {account: STORE, subject: "$JS.EVENT.ADVISORY.>"}}
    ]
  }
}
"""


class Home:
    """
    The place of the streams, and of a process that works with them.

    Args:
        owner: URL of NATS on the streams' side.
        worker: URL of NATS on the process's side.
        environ: environment variables of the process.

    """

    def __init__(self, owner: str, worker: str, environ: Mapping[str, str]) -> None:
        self.owner = owner
        self.worker = worker
        self.environ = environ


@contextmanager
def another_domain(folder: Path) -> Iterator[Home]:
    """Run a hub and a leaf node with a domain each; the process is at the leaf, the streams are in the hub."""
    port = free_port()
    leaves = f'leafnodes {{ listen: "127.0.0.1:{port}" }}'
    remote = f'leafnodes {{ remotes: [ {{ url: "nats-leaf://127.0.0.1:{port}" }} ] }}'
    with (
        NatsServer(store_dir=folder / "hub", name="hub", config=f"jetstream {{ domain: hub }}\n{leaves}") as hub,
        NatsServer(store_dir=folder / "leaf", name="leaf", config=f"jetstream {{ domain: leaf }}\n{remote}") as leaf,
    ):
        leaf.wait_until(lambda: "Leafnode connection created" in leaf.log, "has no connection to its hub")
        yield Home(hub.url, leaf.url, {"NATS_DOMAIN": "hub"})


@contextmanager
def another_account(folder: Path) -> Iterator[Home]:
    """Run a server with two accounts; the process is in the one that imports the streams of the other."""
    with NatsServer(store_dir=folder, config=_ACCOUNTS) as server:
        address = server.url.removeprefix("nats://")
        yield Home(f"nats://s:s@{address}", f"nats://w:w@{address}", {"NATS_API_PREFIX": "JS.store.API"})


@pytest.mark.parametrize("homes", [another_domain, another_account])
def test_every_command_works_there(tmp_path: Path, homes: Callable[[Path], AbstractContextManager[Home]]) -> None:
    """Streams are created, published to, projected, verified, read and dead-lettered there, and none here."""
    with homes(tmp_path / "nats") as home:
        path = tmp_path / "events.db"
        url = f"sqlite:///{path}"

        assert command(home, "stream", "ensure").returncode == 0
        emitted = command(home, "emit", stdin=b"\n".join(encode(event) for event in make_events(COUNT)))
        publish_no_event(home)
        project(home, url, path)
        doctor = command(home, "doctor", "--to", url)

        assert emitted.returncode == 0
        assert doctor.returncode == 0, doctor.stdout.decode()
        assert rows_in(path) == COUNT
        assert command(home, "verify", "--to", url).returncode == 0
        assert len(lines(command(home, "tail", "--from-start", "--until-end"))) == COUNT + 1
        assert [letter["sequence"] for letter in lines(command(home, "dead", "list"))] == [1]
        assert command(home, "dead", "purge", "--all", "--yes").returncode == 0
        rebuilt = command(home, "rebuild", "--to", f"sqlite:///{tmp_path}/rebuilt.db")
        assert (rebuilt.returncode, rows_in(tmp_path / "rebuilt.db")) == (0, COUNT)
        assert asyncio.run(streams_at(home.worker)) == 0
        assert asyncio.run(streams_at(home.owner)) == 3


def test_sink_url_says_where(tmp_path: Path) -> None:
    """A projector with a stream of another domain as its destination mirrors into that stream."""
    with another_domain(tmp_path / "nats") as home:
        asyncio.run(ensure(home))
        run("emit", nats=home.worker, stdin=b"\n".join(encode(event) for event in make_events(COUNT)))
        target = f"{home.worker}?domain=hub&subject=mirror.{{event_type}}"
        projecting = [sys.executable, "-m", "consumers", "project", "--to", target, "--durable", "mirror"]
        with subprocess.Popen(projecting, env=environment(home.worker), stderr=subprocess.DEVNULL) as process:
            try:
                wait(lambda: asyncio.run(messages_in(home, "mirror")) >= COUNT, process)
            finally:
                process.kill()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({"NATS_DOMAIN": "hub"}, "$JS.hub.API.STREAM.INFO.noetl_events", id="domain"),
        pytest.param({"NATS_API_PREFIX": "JS.store.API."}, "JS.store.API.STREAM.INFO.noetl_events", id="import"),
    ],
)
def test_permissions_are_those_of_the_place(environ: dict[str, str], expected: str) -> None:
    """The printed permissions are the subjects used there, and none of the default API."""
    printed = run("permissions", "projector", environ=environ).stdout.decode()

    assert f'"{expected}"' in printed
    assert "$JS.API" not in printed


def test_both_are_refused() -> None:
    """A domain and a prefix contradict each other: the error names both variables."""
    done = run("stream", "show", environ={"NATS_DOMAIN": "hub", "NATS_API_PREFIX": "JS.store.API"})

    assert done.returncode == 2
    assert b"NATS_DOMAIN, NATS_API_PREFIX: both are set; give one of them" in done.stderr


async def ensure(home: Home) -> None:
    """Create the stream at the leaf, and one to mirror into in the hub."""
    async with Connection(ConnectOptions(servers=home.worker)) as here:
        await ensure_stream(here, StreamDeclaration())
    async with Connection(ConnectOptions(servers=home.owner)) as there:
        await ensure_stream(there, StreamDeclaration(name="mirror", subjects=("mirror.>",)))


async def messages_in(home: Home, name: str) -> int:
    """Return the number of messages in the owner's stream *name*."""
    async with Connection(ConnectOptions(servers=home.owner)) as connection:
        return (await show_stream(connection, name)).state.messages


async def streams_at(url: str) -> int:
    """Return the number of streams at *url* without a domain or prefix."""
    async with Connection(ConnectOptions(servers=url)) as connection:
        return len(await (await jetstream(connection)).streams_info())


def publish_no_event(home: Home) -> None:
    """Store a message without an event."""

    async def publish() -> None:
        async with Connection(ConnectOptions(servers=home.owner)) as connection:
            await (await jetstream(connection)).publish("noetl.events.x", b"no event")

    asyncio.run(publish())


def project(home: Home, url: str, path: Path) -> None:
    """Project until all events are in *path* and the other message is dead-lettered, and stop."""
    arguments = [sys.executable, "-m", "consumers", "project", "--to", url]
    variables = environment(home.worker, home.environ)
    with subprocess.Popen(arguments, env=variables, stderr=subprocess.DEVNULL) as process:
        try:
            wait(lambda: rows_in(path) >= COUNT, process)
            wait(lambda: asyncio.run(messages_in(home, "noetl_events_dead")) == 1, process)
            process.terminate()
            assert process.wait(180) == 0
        finally:
            process.kill()


def wait(is_met: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Return once *is_met*; fail if *process* ends earlier, or after three minutes."""
    for _ in range(3600):
        if is_met():
            return
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"project ended with {process.returncode}")
    pytest.fail("nothing came")


def rows_in(path: Path) -> int:
    """Return the number of events in the SQLite file."""
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path, timeout=60)) as database:
        try:
            count: int = database.execute("SELECT count(*) FROM event").fetchone()[0]
        except sqlite3.OperationalError:
            return 0
    return count


def command(home: Home, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a command as that process."""
    return run(*arguments, "--json", nats=home.worker, stdin=stdin, environ=home.environ)


def lines(done: subprocess.CompletedProcess[bytes]) -> list[Any]:
    """Return the lines that a command printed."""
    return [json.loads(line) if line.startswith(b"{") else line for line in done.stdout.splitlines()]
