"""The NATS configuration of the deployment, on the real server."""

from __future__ import annotations

import asyncio
import re
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from consumers.projector.service import Service
from consumers.settings import ProjectorSettings, Settings
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import DEAD_LETTERS, TRIALS, StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.storage import store
from noetl_events.jetstream.streams import ensure_stream, show_stream, watermark
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import make_event
from noetl_events.testing.events import eventually
from noetl_events.testing.nats_server import NatsServer, _find_binary
from tests.gateway.gateway_process import body_of, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONFIG = Path(__file__).parents[2] / "deploy/nats"
ROLES = ("publisher", "projector", "gateway", "admin")


class Guarded:
    """A server with the users of the deployment, and its streams."""

    def __init__(self, server: NatsServer) -> None:
        self.server = server

    def connect(self, role: str) -> Connection:
        """Return a connection as *role*."""
        inbox = f"_INBOX_{role}"
        return Connection(ConnectOptions(servers=self.server.url, user=role, password=role, inbox_prefix=inbox))

    def violations(self) -> list[str]:
        """Return the requests that the server has denied."""
        return re.findall(r".*violation.*", self.server.log, re.IGNORECASE)


@pytest.fixture
def passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the passwords in the environment, which the server's configuration reads."""
    for role in ROLES:
        monkeypatch.setenv(f"NATS_{role.upper()}_PASSWORD", role)


@pytest.fixture
async def guarded(tmp_path: Path, passwords: None) -> AsyncIterator[Guarded]:
    """Return a server that `admin` has set up and `publisher` has published to."""
    with NatsServer(store_dir=tmp_path, config=(CONFIG / "users.conf").read_text()) as server:
        guarded = Guarded(server)
        async with guarded.connect("admin") as connection:
            for declared in (StreamDeclaration(), DEAD_LETTERS, TRIALS):
                await ensure_stream(connection, declared)
        async with guarded.connect("publisher") as connection:
            sink = NatsSink(connection)
            await sink.emit_batch([make_event(number) for number in range(1, 101)])
            await sink.aclose()
            assert (await watermark(connection, "noetl.events.anything")).last_seq == 100
        yield guarded


@asynccontextmanager
async def projecting(guarded: Guarded, *, standby: bool) -> AsyncIterator[Service]:
    """Run a projector as `projector`."""
    async with guarded.connect("projector") as connection:
        settings = Settings(connect=connection.options, stream=StreamDeclaration(), projector=ProjectorSettings())
        service = Service(settings, connection, ["memory:"], durable="noetl_projector", standby=standby)
        running = asyncio.create_task(service.worker.run())
        yield service
        await service.worker.stop()
        await running


def test_the_configuration_is_one_the_server_takes(passwords: None) -> None:
    """`nats-server -t` accepts the configuration, including the users."""
    command = [str(_find_binary()), "-t", "-c", str(CONFIG / "nats-server.conf")]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("standby", [False, True], ids=["shared", "standby"])
async def test_a_projector_stores_and_buries_with_its_own_user(guarded: Guarded, *, standby: bool) -> None:
    """The projector role reads, acknowledges and dead-letters, and the server denies nothing."""
    async with guarded.connect("admin") as connection:
        await store(connection, "noetl.events.broken", b"{", {})
    async with projecting(guarded, standby=standby) as service:
        progress = service.progress["noetl_projector"]
        await eventually(lambda: progress.stored == 100 and progress.dead_letters == 1)
    assert guarded.violations() == []


async def test_a_gateway_takes_and_shows_with_its_own_user(guarded: Guarded) -> None:
    """The gateway role stores posts, streams, and shows executions, status and dead letters."""
    async with guarded.connect("admin") as connection:
        await store(connection, "noetl.dead.x", b"{}", {})
    async with guarded.connect("gateway") as connection, serving(connection, StreamDeclaration()) as web:
        assert (await web.post("/api/events", body_of(7_000)))[0] == 200
        execution = body_of()["execution_id"]
        for path in ("/api/status", "/api/dead", f"/api/executions/{execution}"):
            assert (await web.get(path))[0] == 200, path
        async with web.session.get(f"{web.url}/api/events/stream", headers={"Last-Event-ID": "0"}) as response:
            assert await response.content.readuntil(b"id:")
    assert guarded.violations() == []


async def test_an_admin_removes_and_looks_with_its_own_user(guarded: Guarded) -> None:
    """The admin role has the permissions for the setup and the `dead` commands."""
    async with guarded.connect("admin") as connection:
        await store(connection, "noetl.dead.x", b"{}", {})
        await (await jetstream(connection)).purge_stream(DEAD_LETTERS.name)
        assert (await show_stream(connection, DEAD_LETTERS.name)).state.messages == 0
    assert guarded.violations() == []


FORBIDDEN = {
    "publisher": ["noetl.dead.x", "$JS.API.STREAM.PURGE.noetl_events", "$JS.API.CONSUMER.CREATE.noetl_events"],
    "projector": ["noetl.events.x", "$JS.API.STREAM.DELETE.noetl_events", "$JS.API.CONSUMER.DELETE.noetl_events.x"],
    "gateway": [
        "noetl.dead.x",
        "$JS.API.STREAM.UPDATE.noetl_events",
        "$JS.API.CONSUMER.MSG.NEXT.noetl_events.noetl_projector",
        "$JS.API.CONSUMER.DELETE.noetl_events.noetl_projector",
        "$JS.ACK.noetl_events.noetl_projector.1.1.1.1.0",
    ],
}


@pytest.mark.parametrize("role", FORBIDDEN)
async def test_a_role_does_nothing_that_is_not_its_own(guarded: Guarded, role: str) -> None:
    """Publishing as another role, changing streams and reading other inboxes are denied, each one."""
    async with guarded.connect(role) as connection:
        client = await connection.client()
        for subject in FORBIDDEN[role]:
            await client.publish(subject, b"{}")
        await client.subscribe("_INBOX.>")
        await client.subscribe("noetl.events.>")
        await client.flush()
    assert len(guarded.violations()) == len(FORBIDDEN[role]) + 2
