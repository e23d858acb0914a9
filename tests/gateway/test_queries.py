"""The further endpoints of the gateway besides the live stream."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from consumers.cli.health import health
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import DEAD_LETTERS, StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing import eventually, make_event, make_events
from tests.cli.letters import publish_dead
from tests.gateway.gateway_process import serving
from tests.gateway.test_stream import publish

if TYPE_CHECKING:
    import pytest

    from noetl_events.testing.nats_server import NatsServer


async def test_one_execution(connection: Connection, stream: StreamDeclaration) -> None:
    """The events of one execution are returned in stream order, page by page."""
    events = [make_event(n, execution_id=n % 3) for n in range(1, 10)]
    await publish(connection, stream, events)
    async with serving(connection, stream) as web:
        _, first = await web.get("/api/executions/1?limit=2")
        _, second = await web.get(f"/api/executions/1?limit=2&after={first['next']}")

        assert [entry["sequence"] for entry in first["events"]] == [1, 4]
        assert [entry["event"]["event_id"] for entry in second["events"]] == [7]
        assert (first["next"], second["next"]) == (4, None)
        assert (await web.get("/api/executions/x"))[0] == 422
        assert (await web.get("/api/executions/1?limit=0"))[0] == 422


async def test_status(connection: Connection, stream: StreamDeclaration) -> None:
    """The status has the stream's name and its bounds."""
    await publish(connection, stream, make_events(3))
    async with serving(connection, stream) as web:
        status, answer = await web.get("/api/status")

        assert status == 200
        assert (answer["stream"]["name"], answer["stream"]["last_sequence"]) == (stream.name, 3)
        assert answer["consumers"] == []
        assert isinstance((await web.get("/api/dead?limit=5"))[1], list)


async def test_hostile_letter_is_data(own_server: NatsServer) -> None:
    """A dead letter full of markup is returned as JSON, which no browser takes for a page."""
    hostile = "<script>alert(1)</script>"
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        for declared in (StreamDeclaration(), DEAD_LETTERS):
            await ensure_stream(connection, declared)
        await asyncio.to_thread(publish_dead, own_server, (hostile.encode() + b"\xff\0", "malformed", hostile))
        async with (
            serving(connection, StreamDeclaration()) as web,
            web.session.get(f"{web.url}/api/dead", headers={"accept": "text/html"}) as response,
        ):
            [letter] = await response.json()

    assert (letter["reason"], letter["payload"]) == (hostile, hostile + "\ufffd\0")
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_health(connection: Connection, stream: StreamDeclaration) -> None:
    """The gateway is ready once it reads the stream."""
    async with serving(connection, stream) as web:

        async def is_ready() -> bool:
            return bool((await web.get("/readyz"))[0] == 200)

        await eventually(is_ready)
        assert (await web.get("/healthz"))[1]["alive"] is True
        async with web.session.get(f"{web.url}/metrics") as response:
            assert "noetl_gateway_stored_total 0.0" in await response.text()


async def test_health_asks_a_gateway_too(
    connection: Connection, stream: StreamDeclaration, capsys: pytest.CaptureFixture[str]
) -> None:
    """`noetl-events health --url` returns 0 and "ok" for a ready gateway: the check of its container."""
    async with serving(connection, stream) as web:
        await eventually(lambda: web.gateway.health.report().ready)
        assert await asyncio.to_thread(health, url=web.url, ready=True) == 0
    assert capsys.readouterr().out.endswith("\nok\n")
