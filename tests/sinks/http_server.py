"""A small server with NoETL's endpoints for events and scripted faults, for the tests of HttpSink."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from aiohttp import web

from noetl_events import MalformedEvent, decode, encode
from noetl_events.identity import message_id

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable

    from noetl_events import ExecutorEvent

    Fault: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


class Posted(msgspec.Struct, frozen=True):
    """A received request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def key(self) -> str:
        """Its Idempotency-Key header."""
        return self.headers["Idempotency-Key"]

    @property
    def ids(self) -> list[int]:
        """The ids of its events."""
        return [event["event_id"] for event in _events_in(self.body)]


class EventServer:
    """
    Store each event once: *stored* has the first event of a key, *kept* every event by its message id.

    *script* has an entry for each request: a fault that answers in the server's place, or None.  *refused* holds the
    ids of events that the server always rejects.  *known* is the body of the 409 for a stored event; None makes it a
    success.
    """

    def __init__(self) -> None:
        self.url = ""
        self.stored: dict[tuple[int, int], ExecutorEvent] = {}
        self.kept: dict[tuple[int, bytes], ExecutorEvent] = {}
        self.requests: list[Posted] = []
        self.script: list[Fault | None] = []
        self.refused: set[int] = set()
        self.known: dict[str, object] | None = None
        self.active: dict[int, int] = {}
        self.overlaps = 0
        self.most_at_once = 0

    async def serve_one(self, request: web.Request) -> web.StreamResponse:
        """Store one event."""
        return await self._serve(request)

    async def serve_batch(self, request: web.Request) -> web.StreamResponse:
        """Store the events of one execution."""
        return await self._serve(request)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(Posted(request.path, dict(request.headers), body))
        fault = self.script.pop(0) if self.script else None
        if fault is not None and (answer := await fault(request)) is not None:
            return answer
        with self._watched(body):
            # Other requests may run in between.
            await asyncio.sleep(0)
            return self._take(body)

    def _take(self, body: bytes) -> web.Response:
        try:
            events = [decode(msgspec.json.encode(event)) for event in _events_in(body)]
        except MalformedEvent as exc:
            return web.json_response({"detail": str(exc)}, status=422)
        if bad := [event.event_id for event in events if event.event_id in self.refused]:
            return web.json_response({"detail": f"event_id: {bad} cannot be stored"}, status=422)
        named = {(event.execution_id, message_id(event.event_id or 0, encode(event))): event for event in events}
        if self.known is not None and any(name in self.kept for name in named):
            return web.json_response(self.known, status=409)
        for name, event in named.items():
            self.kept.setdefault(name, event)
        for event in events:
            self.stored.setdefault((event.execution_id, event.event_id or 0), event)
        ids = [event.event_id for event in events]
        return web.json_response({"status": "accepted", "event_ids": ids}, status=202)

    def _watched(self, body: bytes) -> _Watch:
        return _Watch(self, next(iter(_events_in(body)))["execution_id"])


class _Watch:
    """Records the executions that have several requests in flight at once."""

    def __init__(self, server: EventServer, execution_id: int) -> None:
        self._server = server
        self._execution_id = execution_id

    def __enter__(self) -> None:
        active = self._server.active
        active[self._execution_id] = active.get(self._execution_id, 0) + 1
        self._server.overlaps += active[self._execution_id] > 1
        self._server.most_at_once = max(self._server.most_at_once, sum(active.values()))

    def __exit__(self, *_: object) -> None:
        self._server.active[self._execution_id] -= 1


def _events_in(body: bytes) -> list[dict[str, int]]:
    read = msgspec.json.decode(body)
    events: list[dict[str, int]] = read.get("events", [read])
    return events


@asynccontextmanager
async def serving(server: EventServer, *, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """Let *server* listen on a free port, or on *port*."""
    app = web.Application(client_max_size=4 * 2**20)
    app.router.add_post("/api/events", server.serve_one)
    app.router.add_post("/api/events/batch", server.serve_batch)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    server.url = f"http{'s' if tls else ''}://{'localhost' if tls else '127.0.0.1'}:{port}/api/events"
    try:
        yield
    finally:
        await runner.cleanup()


def answering(status: int, body: str = '{"detail": "no"}', **headers: str) -> Fault:
    """Return a fault that gives this answer; underscores in the names of headers become hyphens."""

    async def fault(_request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, text=body, headers=named, content_type="application/json")

    return fault


async def cut_before(request: web.Request) -> web.StreamResponse | None:
    """Reset the connection and store nothing."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
