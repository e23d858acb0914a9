"""A projector with its endpoint, a sink that can be unavailable or hang, and an HTTP client."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import msgspec

from consumers.health import Report
from consumers.projector.endpoint import Endpoint
from consumers.projector.service import Service
from consumers.settings import ProjectorSettings, Settings
from consumers.tasks import Supervisor
from noetl_events import SinkUnavailable
from noetl_events.sinks.memory import MemorySink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from noetl_events import EventSink, ExecutorEvent
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration


class Moody(MemorySink):
    """A sink that is unavailable while `away` holds a reason, and hangs while `answers` is not set."""

    def __init__(self) -> None:
        super().__init__()
        self.away = ""
        self.duplicates = 7
        self.answers = asyncio.Event()
        self.answers.set()

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store the batch, unless the sink is unavailable."""
        if self.away:
            raise SinkUnavailable(self.away, retry_after=0.02)
        await self.answers.wait()
        await super().emit_batch(events)


class Served:
    """A running projector, seen from outside."""

    def __init__(self, service: Service, port: int) -> None:
        self.service = service
        self.url = f"http://127.0.0.1:{port}"
        self._port = port

    async def get(self, path: str, accept: str = "") -> tuple[int, bytes]:
        """Return status and body of the answer."""
        return await asyncio.to_thread(self._get, path, accept)

    async def is_alive(self) -> bool:
        """Return the answer of `/healthz`, and assert that its body agrees."""
        status, body = await self.get("/healthz")
        assert msgspec.json.decode(body, type=Report).alive is (status == 200)
        return status == 200

    async def is_ready(self) -> bool:
        """Return the answer of `/readyz`, and assert that its body agrees."""
        status, body = await self.get("/readyz")
        assert msgspec.json.decode(body, type=Report).ready is (status == 200)
        return status == 200

    async def is_not_ready(self) -> bool:
        """Return true if `/readyz` reports not ready."""
        return not await self.is_ready()

    async def why(self) -> tuple[str, str]:
        """Return the failing dependency of the one projector, and its reason."""
        _, body = await self.get("/readyz")
        [health] = msgspec.json.decode(body, type=Report).projectors.values()
        return health.part, health.reason

    def _get(self, path: str, accept: str) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request("GET", path, headers={"Accept": accept})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@asynccontextmanager
async def serving(
    connection: Connection, stream: StreamDeclaration, sink: EventSink, *, standby: bool = False, **changes: Any
) -> AsyncIterator[Served]:
    """Run a projector with an endpoint into *sink*, and stop it in the end."""
    settings = Settings(connect=connection.options, stream=stream, projector=ProjectorSettings(**changes))
    service = Service(settings, connection, ["memory:"], durable="projector", standby=standby, opener=lambda _: sink)
    listener = socket.create_server(("127.0.0.1", 0))
    worker = Supervisor([service.worker], background=[Endpoint(service, listener).run])
    running = asyncio.create_task(worker.run())
    try:
        yield Served(service, listener.getsockname()[1])
        await worker.stop()
        async with asyncio.timeout(180):
            await running
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
