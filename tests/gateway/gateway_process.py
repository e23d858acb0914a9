"""A gateway as a process, used over HTTP."""

from __future__ import annotations

import asyncio
import io
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec

from consumers.gateway.app import Gateway
from consumers.gateway.auth import LocalOnly, TokenFile
from consumers.settings import ProjectorSettings, Settings
from noetl_events.jetstream.consume.history import History, Span
from noetl_events.testing import make_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration


class Web:
    """A running gateway and its HTTP client."""

    def __init__(self, gateway: Gateway, port: int, session: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.session = session

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Return status and answer; a *body* of bytes is sent as it is, any other as JSON."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(f"{self.url}{path}", data=io.BytesIO(data), headers=names) as response:
            return response.status, msgspec.json.decode(await response.read())

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        """Return status and answer."""
        async with self.session.get(f"{self.url}{path}", headers=headers) as response:
            return response.status, msgspec.json.decode(await response.read())


@asynccontextmanager
async def serving(
    connection: Connection,
    stream: StreamDeclaration,
    *,
    port: int = 0,
    rule: TokenFile | LocalOnly | None = None,
    **options: Any,
) -> AsyncIterator[Web]:
    """Run a gateway, and stop it in the end; a gateway that hangs fails the test."""
    settings = Settings(connect=connection.options, stream=stream, projector=ProjectorSettings())
    listener = socket.create_server(("127.0.0.1", port))
    gateway = Gateway(settings, connection, listener, rule or LocalOnly(), **options)
    running = asyncio.create_task(gateway.run())
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=180)) as session:
            yield Web(gateway, listener.getsockname()[1], session)
        await gateway.stop()
        async with asyncio.timeout(180):
            await running
    finally:
        running.cancel()
        await asyncio.wait({running})


async def stored_in(connection: Connection, stream: StreamDeclaration) -> list[dict[str, Any]]:
    """Return the bodies in *stream*."""
    found: list[dict[str, Any]] = []
    async with History(connection, Span(stream=stream.name)) as history:
        while messages := await history.read():
            found += [msgspec.json.decode(message.data) for message in messages]
    return found


def body_of(event_id: int | None = 1, /, **changes: Any) -> dict[str, Any]:
    """Return an event as a client sends it."""
    event = msgspec.to_builtins(make_event(event_id, created_at="2026-05-31T03:14:15.123456Z"))
    fields = {name: value for name, value in event.items() if value is not None} | changes
    return {name: value for name, value in fields.items() if value != "-"}
