"""
`GET /api/events/stream`: server-sent events, and the position of each client in the stream.

    state of the client    response
    stream replaced        `resync`, and continue with the first message of the new stream
    ahead of the stream    the same, if the position of the client does not exist: it is from another stream
    fell behind            `dropped`, and disconnect: a client that had caught up reads too slowly, and may resume
    catching up            read by pages from the stream, until the ring has the next message; `resync` if messages
                           expired before the client read them
    at the end             wait for the hub
    in the ring            from the ring, encoded once for all clients
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from consumers.gateway.errors import ApiError
from consumers.gateway.hub import HEARTBEAT, RETRY, EventFilter, control, encoded_event
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

State: TypeAlias = Literal[
    "stream replaced", "ahead of the stream", "fell behind", "catching up", "at the end", "in the ring"
]

_AGAIN: Final = 0.5
_WAITS: Final = Backoff(initial=0.5, maximum=2.0)


def state_of(hub: Hub, *, generation: int, position: int, caught_up: bool) -> State:
    """
    Return the state of a client.

    Args:
        hub: reader of the stream.
        generation: generation of the stream that *position* belongs to.
        position: sequence of the last message that the client has received, or that its filter has skipped.
        caught_up: True if the client has once reached the ring in this generation.

    """
    ring = hub.ring
    if generation != hub.generation:
        return "stream replaced"
    # The end of the stream is known only while the hub reads it.
    if position > max(ring.position, hub.last) and not hub.reason:
        return "ahead of the stream"
    if position < ring.behind:
        return "fell behind" if caught_up else "catching up"
    return "at the end" if position >= ring.position else "in the ring"


class ClientCursor:
    """
    The live stream of one client.

    Args:
        hub: reader of the stream.
        history: pages of the stream's past.
        wanted: filter of the events.
        behind: sequence that the client has reached; 0 for the start of the stream, None for new events only.

    """

    def __init__(self, hub: Hub, history: StreamHistory, wanted: EventFilter, behind: int | None) -> None:
        self.dropped = False
        """True once the client was dropped because it read too slowly."""

        self._hub = hub
        self._history = history
        self._wanted = wanted
        self._behind = behind
        self._position = 0
        self._generation = 0
        self._caught_up = False
        self._waits = _WAITS.waits()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes to send, until the client is dropped or the hub stops."""
        yield RETRY
        await self._start()
        while not self._hub.stopping and not self.dropped:
            if chunk := await self._next():
                yield chunk
        yield RETRY

    async def _start(self) -> None:
        hub = self._hub
        while not hub.generation and not hub.stopping:
            await hub.wait_for_change()
        self._generation = hub.generation
        self._position = max(hub.last, hub.ring.position) if self._behind is None else self._behind

    async def _next(self) -> bytes:
        """Return the next bytes; empty after a wait that brought nothing for this client."""
        match state_of(self._hub, generation=self._generation, position=self._position, caught_up=self._caught_up):
            case "stream replaced":
                return self._restart()
            case "ahead of the stream":
                return await self._check_position()
            case "fell behind":
                return self._drop()
            case "catching up":
                return await self._read_page()
            case "at the end":
                self._caught_up = True
                await self._hub.wait_for_change()
                return b""
            case "in the ring":
                self._caught_up = True
                chunk, self._position = self._hub.ring.chunk(self._wanted, self._position)
                return chunk

    def _restart(self) -> bytes:
        hub = self._hub
        self._generation, self._caught_up, self._position = hub.generation, False, hub.first - 1
        return _resync("replaced", hub.first, hub.ring.position)

    async def _check_position(self) -> bytes:
        generation = self._hub.generation
        try:
            first, last = await self._history.bounds()
        except NatsUnavailable:
            await asyncio.sleep(next(self._waits))
            return b""
        if generation == self._hub.generation and self._position > last:
            self._position = first - 1
            return _resync("replaced", first, last)
        await asyncio.sleep(_AGAIN)
        return b""

    def _drop(self) -> bytes:
        self.dropped = True
        return control("dropped", reason="read too slowly; resume from the last id")

    async def _read_page(self) -> bytes:
        generation = self._hub.generation
        try:
            first, messages, end = await self._history.page(self._position)
        except (NatsUnavailable, StreamReplaced):
            # The hub detects the failure too, and whether the stream was replaced.
            await asyncio.sleep(next(self._waits))
            return b""
        self._waits = _WAITS.waits()
        if generation != self._hub.generation:
            return b""
        events = [encoded_event(message) for message in messages]
        data = b"".join(event.data for event in events if self._wanted.matches(event))
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
        history: pages of the stream's past.
        heartbeat: seconds without events until a heartbeat is sent.

    """

    def __init__(self, hub: Hub, history: StreamHistory, *, heartbeat: float = _INTERVAL) -> None:
        self.dropped = 0
        """Number of clients that were dropped because they read too slowly."""

        self._hub = hub
        self._history = history
        self._heartbeat = heartbeat

    async def open(self, request: Request) -> _Response:
        """Return the stream for the filter and position in *request*."""
        query = request.query_params
        types = frozenset(filter(None, query.get("event_type", "").split(",")))
        execution = query.get("execution_id")
        wanted = EventFilter(None if execution is None else read_number("execution_id", execution, MIN_INT64), types)
        return _Response(self, ClientCursor(self._hub, self._history, wanted, _start(request)))

    async def serve(self, cursor: ClientCursor, receive: Receive, send: Send) -> None:
        """Send the chunks of *cursor* until they end or the client disconnects."""
        self._hub.clients += 1
        tasks = {asyncio.create_task(self.send(cursor, send)), asyncio.create_task(_until_disconnected(receive))}
        try:
            done, _ = await asyncio.wait(tasks, return_when="FIRST_COMPLETED")
        finally:
            self._hub.clients -= 1
            await end_tasks(tasks)
        for task in done:
            task.result()

    async def send(self, cursor: ClientCursor, send: Send) -> None:
        """Send the chunks of *cursor* to the client."""
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        async with aclosing(_with_heartbeats(cursor.chunks(), self._heartbeat)) as chunks:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        self.dropped += cursor.dropped
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Response:
    def __init__(self, stream: EventStream, cursor: ClientCursor) -> None:
        self._stream = stream
        self._cursor = cursor

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await self._stream.serve(self._cursor, receive, send)


def _start(request: Request) -> int | None:
    last = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
    if last:
        return read_number("last_event_id", last, 0)
    start = request.query_params.get("from", "new")
    if start not in ("start", "new"):
        raise ApiError(422, "query", f"from: {start[:80]!r} is neither start nor new")
    return 0 if start == "start" else None


async def _until_disconnected(receive: Receive) -> None:
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
