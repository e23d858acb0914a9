"""
`GET /api/events/stream`: server-sent events, and the position of each client in the stream.

    state of the client's next message    response
    in the ring                           from the ring, encoded once for all clients
    older than the ring                   read by pages from the stream, until the ring has the next message
    older, after the client had caught up `dropped`, and disconnect: the client reads too slowly, and may resume
    expired in the stream                 `resync`, and continue with the first message that exists
    of a stream that was replaced         `resync`, and continue with the first message of the new stream
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from consumers.gateway.errors import ApiError
from consumers.gateway.hub import HEARTBEAT, RETRY, EventFilter, control, frame_of
from consumers.gateway.requests import read_number
from consumers.tasks import end_tasks
from noetl_events.jetstream.errors import NatsUnavailable, StreamReplaced
from noetl_events.json_values import MIN_INT64
from noetl_events.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from consumers.gateway.history import StreamHistory
    from consumers.gateway.hub import Hub

_AGAIN: Final = 0.5
_WAITS: Final = Backoff(initial=0.5, maximum=2.0)


class ClientCursor:
    """
    The live stream of one client.

    Args:
        hub: reader of the stream.
        past: pages of the stream's past.
        wanted: filter of the events.
        behind: sequence that the client has reached; 0 for the start of the stream, None for new events only.

    """

    def __init__(self, hub: Hub, past: StreamHistory, wanted: EventFilter, behind: int | None) -> None:
        self.dropped = False
        """True once the client was dropped because it read too slowly."""

        self._hub = hub
        self._past = past
        self._wanted = wanted
        self._is_new = behind is None
        self._position = behind or 0
        self._era = 0
        self._caught_up = False
        self._waits = _WAITS.waits()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes to send, until the client is dropped or the hub stops."""
        yield RETRY
        while not self._hub.stopping and not self.dropped:
            chunk = await self._next()
            if chunk:
                yield chunk
        yield RETRY

    async def _next(self) -> bytes:
        """Return the next bytes; empty after a wait that brought nothing for this client."""
        hub, ring, news = self._hub, self._hub.ring, self._hub.news
        if self._era != hub.era:
            return self._enter()
        if self._position > max(ring.position, hub.last) and self._era and not hub.reason:
            return await self._find()
        if self._era and self._position < ring.behind:
            return self._drop() if self._caught_up else await self._catch_up()
        self._caught_up = self._era > 0
        if self._position >= ring.position:
            await news.wait()
            return b""
        chunk, self._position = ring.chunk(self._wanted, self._position)
        return chunk

    def _enter(self) -> bytes:
        """Start the stream, or restart it in a recreated one."""
        before, self._era = self._era, self._hub.era
        if not before:
            self._position = max(self._hub.last, self._hub.ring.position) if self._is_new else self._position
            return b""
        self._caught_up = False
        self._position = self._hub.first - 1
        return _resync("replaced", self._hub.first, self._hub.ring.position)

    def _drop(self) -> bytes:
        self.dropped = True
        return control("dropped", reason="read too slowly; resume from the last id")

    async def _find(self) -> bytes:
        """Check whether the client's position exists in the stream; if not, it is from another stream."""
        era = self._hub.era
        try:
            first, last = await self._past.bounds()
        except NatsUnavailable:
            await asyncio.sleep(next(self._waits))
            return b""
        if era == self._hub.era and self._position > last:
            self._position = first - 1
            return _resync("replaced", first, last)
        await asyncio.sleep(_AGAIN)
        return b""

    async def _catch_up(self) -> bytes:
        era = self._hub.era
        try:
            first, messages, end = await self._past.page(self._position)
        except (NatsUnavailable, StreamReplaced):
            # The hub detects the failure too, and whether the stream was replaced.
            await asyncio.sleep(next(self._waits))
            return b""
        self._waits = _WAITS.waits()
        if era != self._hub.era:
            return b""
        frames = [frame_of(message) for message in messages]
        data = b"".join(frame.data for frame in frames if self._wanted.takes(frame))
        # Events that expired before the start of the stream are not missing for a client that asked for the start.
        if self._position and self._position + 1 < first:
            data = _resync("expired", first, end) + data
        self._position = end
        return data


def _resync(reason: str, first: int, last: int) -> bytes:
    return control("resync", reason=reason, first_sequence=first, last_sequence=last)


_INTERVAL: Final = 15.0
_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # A client should reconnect with a new connection, which may lead to another gateway.
    (b"connection", b"close"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """
    The endpoint of the live stream.

    Args:
        hub: reader of the stream.
        past: pages of the stream's past.
        heartbeat: seconds without events until a heartbeat is sent.

    """

    def __init__(self, hub: Hub, past: StreamHistory, *, heartbeat: float = _INTERVAL) -> None:
        self.dropped = 0
        """Number of clients that were dropped because they read too slowly."""

        self._hub = hub
        self._past = past
        self._heartbeat = heartbeat

    async def open(self, request: Request) -> _Response:
        """Return the stream for the filter and position in *request*."""
        query = request.query_params
        types = frozenset(filter(None, query.get("event_type", "").split(",")))
        execution = query.get("execution_id")
        wanted = EventFilter(None if execution is None else read_number("execution_id", execution, MIN_INT64), types)
        return _Response(self, ClientCursor(self._hub, self._past, wanted, _start(request)))

    async def send(self, live: ClientCursor, send: Send) -> None:
        """Send *live* to the client until it ends."""
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        async with aclosing(_with_heartbeats(live.chunks(), self._heartbeat)) as chunks:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        self.dropped += live.dropped
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def serve(self, live: ClientCursor, receive: Receive, send: Send) -> None:
        """Send *live* until it ends or the client disconnects."""
        self._hub.clients += 1
        tasks = {asyncio.create_task(self.send(live, send)), asyncio.create_task(_until_gone(receive))}
        try:
            done, _ = await asyncio.wait(tasks, return_when="FIRST_COMPLETED")
        finally:
            self._hub.clients -= 1
            await end_tasks(tasks)
        for task in done:
            task.result()


class _Response:
    def __init__(self, streaming: EventStream, live: ClientCursor) -> None:
        self._streaming = streaming
        self._live = live

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await self._streaming.serve(self._live, receive, send)


def _start(request: Request) -> int | None:
    last = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
    if last:
        return read_number("last_event_id", last, 0)
    start = request.query_params.get("from", "new")
    if start not in ("start", "new"):
        raise ApiError(422, "query", f"from: {start[:80]!r} is neither start nor new")
    return 0 if start == "start" else None


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _with_heartbeats(chunks: AsyncIterator[bytes], interval: float) -> AsyncGenerator[bytes, None]:
    """Yield *chunks*, and a heartbeat after each *interval* without one."""
    waiting: asyncio.Task[bytes] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(chunks))
            done, _ = await asyncio.wait({waiting}, timeout=interval)
            if not done:
                yield HEARTBEAT
                continue
            try:
                chunk = waiting.result()
            except StopAsyncIteration:
                return
            waiting = None
            yield chunk
    finally:
        if waiting is not None:
            await end_tasks({waiting})
