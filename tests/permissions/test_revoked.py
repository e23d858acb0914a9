"""Credentials that are revoked and restored while daemons run: not ready meanwhile, and as before afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from consumers.permissions import RoleContext
from noetl_events.jetstream.declarations import ConsumerDeclaration
from noetl_events.sinks.memory import MemorySink
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_event
from tests.gateway.gateway_process import body_of
from tests.gateway.gateway_process import serving as serving_gateway
from tests.permissions.guarded import Guarded, guarded
from tests.projector.served import serving as serving_projector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from consumers.permissions import Role
    from tests.gateway.gateway_process import Web


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Guarded]:
    """Return a server with the four roles, and the streams."""
    consumer = ConsumerDeclaration(name="projector")
    work = RoleContext(consumers=(consumer,), durable="projector", inbox_prefix="_INBOX_private")
    with guarded(tmp_path, work) as made:
        await made.prepare()
        yield made


def change_password(server: Guarded, role: Role, old: str, new: str) -> None:
    """Reload the server with another password of *role*: clients with the old one are disconnected."""
    user = f"user: {role}, password:"
    server.server.reload(server.server.config.replace(f"{user} {old}", f"{user} {new}"))


async def test_projector(server: Guarded) -> None:
    """A projector with revoked credentials is not ready; with valid ones it continues."""
    sink = MemorySink()
    async with server.connected("owner") as owner, server.connected("projector") as connection:
        publisher = NatsSink(owner)
        async with serving_projector(connection, server.work.stream, sink) as projector:
            await publisher.emit(make_event(1))
            await eventually(lambda: len(sink.events) == 1)
            assert await projector.is_ready()
            change_password(server, "projector", "pw", "other")
            await eventually(projector.is_not_ready)
            assert await projector.is_alive()
            await publisher.emit(make_event(2))
            change_password(server, "projector", "other", "pw")
            await eventually(projector.is_ready)
            await eventually(lambda: len(sink.events) == 2)
        await publisher.aclose()


async def test_gateway(server: Guarded) -> None:
    """A gateway with revoked credentials is not ready and refuses posts; with valid ones it accepts events again."""
    async with server.connected("gateway") as connection, serving_gateway(connection, server.work.stream) as web:
        await eventually(lambda: is_ready(web))
        change_password(server, "gateway", "pw", "other")
        await eventually(lambda: is_not_ready(web))
        change_password(server, "gateway", "other", "pw")
        await eventually(lambda: is_ready(web))
        status, _ = await web.post("/api/events", body_of(1))

        assert status == 200


async def is_ready(web: Web) -> bool:
    """Return the answer of `/readyz`."""
    status, _ = await web.get("/readyz")
    return status == 200


async def is_not_ready(web: Web) -> bool:
    """Return true if `/readyz` reports not ready."""
    return not await is_ready(web)
