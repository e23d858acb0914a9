"""A subscription that the server refuses: retried, logged once in the server's words, not ready, counted."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from nats.js.api import ConsumerConfig
from structlog.testing import capture_logs

from consumers.gateway.hub import Hub
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing import eventually, make_events
from noetl_events.testing.nats_server import NatsServer
from tests.gateway.gateway_process import Web, serving
from tests.gateway.reader import reading
from tests.gateway.test_stream import publish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WATCHED = 4.0
DENYING = """
accounts { A {
  jetstream: enabled
  users: [
    { user: owner, password: pw }
    { user: gateway, password: pw, permissions { publish: { deny: [%s] } } }
  ] } }
"""


async def watch_refused(web: Web, words: str) -> None:
    """Assert for a while that the gateway is never ready, and names the reason."""
    await eventually(lambda: web.gateway.hub.failures > 0)
    failures, began = web.gateway.hub.failures, time.monotonic()
    while time.monotonic() - began < WATCHED:
        status, answer = await web.get("/readyz")
        assert (status, answer["ready"]) == (503, False)
        assert words in answer["projectors"]["gateway"]["reason"]
    # The waits double from 0.1 s and are halved at most, so there are six in four seconds.
    assert web.gateway.hub.failures - failures <= 2 + 6 * (time.monotonic() - began) / WATCHED


async def recovered(web: Web) -> None:
    """Return once the gateway is ready, and the failures are counted."""
    await eventually(lambda: web.gateway.health.report().ready)
    async with web.session.get(f"{web.url}/metrics") as response:
        text = await response.text()

    assert f"noetl_gateway_stream_failures_total {float(web.gateway.hub.failures)}" in text


async def test_consumer_that_is_refused_is_held(connection: Connection) -> None:
    """While a stream accepts no further consumer the gateway is not ready; later it reads at once."""
    name = f"full_{time.monotonic_ns()}"
    declared = StreamDeclaration(name=name, subjects=(f"{name}.>",))
    js = await jetstream(connection)
    await js.add_stream(name=name, subjects=[f"{name}.>"], max_consumers=1)
    await js.add_consumer(name, ConsumerConfig(durable_name="other"))
    with capture_logs() as logs:
        async with serving(connection, declared) as web, reading(web.url, "from=start") as reader:
            await watch_refused(web, "maximum consumers limit reached")
            await js.delete_consumer(name, "other")
            await recovered(web)
            await publish(connection, declared, make_events(3))
            await eventually(lambda: len(reader.sequences) == 3)
    await js.delete_stream(name)
    said = [line for line in logs if line["event"].startswith("hub.")]

    assert [line["event"] for line in said] == ["hub.holding", "hub.resumed"]
    assert "maximum consumers limit reached" in said[0]["reason"]
    assert said[1]["seconds"] >= WATCHED


@pytest.fixture
def denying(tmp_path: Path) -> Iterator[NatsServer]:
    """Return a server that lets the gateway create a consumer, and denies its pull requests."""
    with NatsServer(store_dir=tmp_path / "nats", config=DENYING % '"$JS.API.CONSUMER.MSG.NEXT.>"') as server:
        yield server


async def test_request_that_is_denied_is_held(denying: NatsServer) -> None:
    """A gateway that may create its consumer and not pull is never ready, from the first attempt on."""
    stream = StreamDeclaration()
    users = [ConnectOptions(servers=denying.url, user=user, password="pw") for user in ("owner", "gateway")]
    with capture_logs() as logs:
        async with Connection(users[0]) as owner, Connection(users[1]) as connection:
            await ensure_stream(owner, stream)
            await publish(owner, stream, make_events(3))
            async with serving(connection, stream) as web, reading(web.url, "from=start"):
                ready = asyncio.create_task(_ever_ready(web))
                await watch_refused(web, "permissions violation")
                assert not ready.done()
                ready.cancel()
                denying.reload(DENYING % '"none"')
                await recovered(web)
    said = [line["event"] for line in logs if line["event"].startswith("hub.")]

    # A reload closes the connection of a user with changed permissions, which may be one more failure.
    assert said[:2] == ["hub.holding", "hub.resumed"] or said[:3] == ["hub.holding", "hub.holding", "hub.resumed"]


async def test_silent_server_does_not_look_well_at_each_attempt(tmp_path: Path) -> None:
    """A gateway with unanswered pull requests stays not ready until one is answered, not only until the next one."""
    mapping = "accounts { A { jetstream: enabled, users: [{ user: owner, password: pw }], mappings { %s } } }"
    lost = '"$JS.API.CONSUMER.MSG.NEXT.*.*": nowhere'
    with NatsServer(store_dir=tmp_path / "nats", config=mapping % lost) as server:
        async with Connection(ConnectOptions(servers=server.url, user="owner", password="pw")) as connection:
            await ensure_stream(connection, StreamDeclaration())
            await (await connection.client()).subscribe("nowhere")
            hub = Hub(connection, StreamDeclaration().name, heartbeat=0.2)
            running = asyncio.create_task(hub.run())
            await eventually(lambda: hub.failures >= 1)
            while hub.failures < 4:
                assert "no heartbeat for 0.4 s" in hub.reason
                await asyncio.sleep(0)
            server.reload(mapping % "")
            await eventually(lambda: not hub.reason)
            running.cancel()
            await asyncio.wait({running})


async def _ever_ready(web: Web) -> None:
    while not web.gateway.health.report().ready:  # noqa: ASYNC110  (a single ready moment must fail the test)
        await asyncio.sleep(0)
