"""A gateway that is stopped while a post waits for NATS."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.error import HTTPError

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing import eventually
from tests.cli.letters import messages_in
from tests.gateway.gateway_process import body_of, serving, stored_in
from tests.gateway.live_gateway import STREAM, LiveGateway

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from noetl_events.testing.nats_server import NatsServer


def post(url: str) -> int:
    """Post an event, and return the status of the answer."""
    body = json.dumps(body_of()).encode()
    try:
        with urllib.request.urlopen(f"{url}api/events", body, timeout=180) as response:  # noqa: S310  (on loopback)
            return int(response.status)
    except HTTPError as refusal:
        return refusal.code


def wait_for_post(url: str) -> None:
    """Return once the gateway has a post in flight."""
    deadline = time.monotonic() + 180
    while b"noetl_gateway_in_hand 1.0" not in urllib.request.urlopen(f"{url}metrics").read():  # noqa: S310  (on loopback)
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_post_in_flight_is_stored_on_sigterm(tmp_path: Path) -> None:
    """After SIGTERM a post in flight is answered once its event is stored; then the process exits with 0."""
    with LiveGateway(tmp_path) as gateway, ThreadPoolExecutor(1) as pool:
        gateway.server.pause()
        answer = pool.submit(post, gateway.url)
        wait_for_post(gateway.url)
        gateway.terminate()
        assert not answer.done()
        gateway.server.resume()

        assert answer.result(180) == 200
        assert gateway.leaves() == 0
        assert len(messages_in(gateway.server, STREAM.name)) == 1


async def test_post_that_cannot_be_stored_is_refused(own_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After SIGTERM during an outage of NATS a post in flight gets 503, and its event is not stored."""
    monkeypatch.setattr("consumers.gateway.app.PATIENCE", 0.5)
    declared = StreamDeclaration()
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        await ensure_stream(connection, declared)
        async with serving(connection, declared) as web:
            own_server.kill()
            answer = asyncio.create_task(web.post("/api/events", body_of()))
            await eventually(lambda: web.gateway.in_flight == 1)
            await web.gateway.stop()
            assert (await answer)[0] == 503
        await asyncio.to_thread(own_server.start)
        assert await stored_in(connection, declared) == []
