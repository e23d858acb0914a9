"""`GET /api/events/stream`: server-sent events."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from consumers.cancellation import end_tasks
from consumers.gateway.frame import HEARTBEAT, Wanted
from consumers.gateway.live import Live
from consumers.gateway.refusal import Fault, Refused
from noetl_events.json_values import MAX_INT64, MIN_INT64

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from consumers.gateway.hub import Hub
    from consumers.gateway.past import Past

_INTERVAL: Final = 15.0
# Of the longest number of 64 bits: Python reads no endless digits, and says so in another way.
_LONGEST: Final = len(str(MIN_INT64))
_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # A stream that has ended is over: who comes again may have to go elsewhere.
    (b"connection", b"close"),
    (b"x-accel-buffering", b"no"),
]


class Streaming:
    """
    Stream the events *hub* reads.

    Args:
        hub: reads the stream.
        past: of the stream.
        heartbeat: seconds of quiet until a client is sent a sign of life.

    """

    def __init__(self, hub: Hub, past: Past, *, heartbeat: float = _INTERVAL) -> None:
        self.dropped = 0
        """Clients that read too slowly."""

        self._hub = hub
        self._past = past
        self._heartbeat = heartbeat

    async def open(self, request: Request) -> _Response:
        """Return the stream that *request* asks for."""
        query = request.query_params
        types = frozenset(filter(None, query.get("event_type", "").split(",")))
        execution = query.get("execution_id")
        wanted = Wanted(None if execution is None else read_number("execution_id", execution, MIN_INT64), types)
        return _Response(self, Live(self._hub, self._past, wanted, _start(request)))

    async def send(self, live: Live, send: Send) -> None:
        """Send *live* to its client to its end."""
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        async with aclosing(_with_heartbeats(live.chunks(), self._heartbeat)) as chunks:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        self.dropped += live.dropped
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def serve(self, live: Live, receive: Receive, send: Send) -> None:
        """Send *live* until it ends or its client goes away."""
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
    def __init__(self, streaming: Streaming, live: Live) -> None:
        self._streaming = streaming
        self._live = live

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await self._streaming.serve(self._live, receive, send)


def read_number(name: str, text: str, least: int) -> int:
    """
    Return the whole number *text* is.

    Raises:
        Refused: it is none, or below *least* or beyond 64 bits.

    """
    if text.lstrip("-").isdecimal() and text.isascii() and len(text) <= _LONGEST and least <= int(text) <= MAX_INT64:
        return int(text)
    reason = f"{name}: {text[:80]!r} is no whole number from {least} up"
    raise Refused(422, "query", reason, errors=(Fault(field=name, reason=reason),))


def _start(request: Request) -> int | None:
    last = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
    if last:
        return read_number("last_event_id", last, 0)
    start = request.query_params.get("from", "new")
    if start not in ("start", "new"):
        raise Refused(422, "query", f"from: {start[:80]!r} is neither start nor new")
    return 0 if start == "start" else None


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _with_heartbeats(chunks: AsyncIterator[bytes], interval: float) -> AsyncGenerator[bytes, None]:
    """Yield *chunks*, and a heartbeat whenever there was none for so long."""
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
