"""
Ingest: a post is answered with success only after the stream has stored its events.

Requests with an `Idempotency-Key` are remembered with the ids that their events were given.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.responses import Response

from consumers.gateway.errors import ApiError, EventError
from consumers.gateway.requests import conflicting, malformed, read_many, read_one
from noetl_events.ids import process_ids
from noetl_events.sink import EventsRejected, SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.requests import Request

    from consumers.gateway.requests import RequestLimiter
    from noetl_events.envelope import ExecutorEvent
    from noetl_events.sink import EventSink

_KEPT: Final = 4_096
_KEPT_BYTES: Final = 32 * 1024 * 1024


class IdempotencyCache:
    """A request with a key: its *events* with their ids, and whether they are stored."""

    def __init__(self, body: bytes, events: Sequence[ExecutorEvent]) -> None:
        self.request_id = secrets.token_hex(16)
        self.events = events
        self.stored = False
        self.size = len(body)
        self.digest = _digest(body)


class RequestsSeen:
    """
    A cache of the last requests with a key.

    An event with its own id needs no cache, because the stream deduplicates by id.  For an event without one, a second
    request with the same key gets the id of the first.  A restart of the gateway clears the cache, so the event gets a
    new id then, and is stored as another event.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[str, IdempotencyCache] = OrderedDict()
        self._bytes = 0

    def find(self, key: str, body: bytes) -> IdempotencyCache | None:
        """
        Return the cached request with *key*.

        Raises:
            Refused: the cached request had another body.

        """
        seen = self._seen.get(key)
        if seen is not None and seen.digest != _digest(body):
            raise ApiError(422, "key_reused", "Idempotency-Key: already used with another body; use a new key")
        return seen

    def add(self, key: str, body: bytes, events: Sequence[ExecutorEvent]) -> IdempotencyCache:
        """Store a request in the cache if it has a key, and discard the oldest ones if the cache is full."""
        seen = IdempotencyCache(body, events)
        if key:
            self._seen[key] = seen
            self._bytes += seen.size
        while len(self._seen) > _KEPT or (self._bytes > _KEPT_BYTES and len(self._seen) > 1):
            _, oldest = self._seen.popitem(last=False)
            self._bytes -= oldest.size
        return seen


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


_COME_AGAIN: Final = 2
_MAX_KEY: Final = 256


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    event_id: int
    status: str = "ok"


class _Accepted(msgspec.Struct, frozen=True, kw_only=True):
    request_id: str
    event_ids: tuple[int, ...]
    duplicate: bool
    status: str = "accepted"


class Ingest:
    """
    Store events that arrive over HTTP in *sink*.

    Args:
        sink: sink that stores the events; it must time out within seconds, so that clients learn of a failure.
        limiter: limit of the requests in flight.
        new_id: generator of ids for events without one.

    """

    def __init__(self, sink: EventSink, limiter: RequestLimiter, *, new_id: Callable[[], int] | None = None) -> None:
        self.stored = 0
        """Number of events answered with success."""
        self.refused: dict[str, int] = {}
        """Number of refused requests, by code."""

        self._sink = sink
        self._limiter = limiter
        self._new_id = new_id or process_ids()
        self._seen = RequestsSeen()

    async def one(self, request: Request) -> Response:
        """Store the event in the body."""
        try:
            with self._limiter.slot() as slot:
                event = read_one(await self._limiter.read(request, slot), self._new_id)
                await self._store([event])
        except ApiError as exc:
            raise self._counted(exc) from None
        return _answer(_Stored(event_id=event.event_id or 0), 200)

    async def many(self, request: Request) -> Response:
        """Store the events in the body; a retry with the same `Idempotency-Key` keeps the ids of the events."""
        try:
            key = _key(request)
            with self._limiter.slot() as slot:
                body = await self._limiter.read(request, slot)
                known = self._seen.find(key, body)
                events = known.events if known else read_many(body, self._new_id)
                seen = known or self._seen.add(key, body, events)
                is_duplicate = seen.stored
                await self._store(events)
                seen.stored = True
        except ApiError as exc:
            raise self._counted(exc) from None
        ids = tuple(event.event_id or 0 for event in events)
        return _answer(_Accepted(request_id=seen.request_id, event_ids=ids, duplicate=is_duplicate), 202)

    async def _store(self, events: Sequence[ExecutorEvent]) -> None:
        try:
            await self._sink.emit_batch(events)
        except SinkUnavailable as exc:
            wait = max(_COME_AGAIN, math.ceil(exc.retry_after or 0))
            raise ApiError(503, "unavailable", exc.reason, retry_after=wait) from exc
        except EventsRejected as exc:
            refuse = conflicting if exc.conflicts == exc.reasons.keys() else malformed
            raise refuse(_faults(events, exc)) from exc
        self.stored += len(events)

    def _counted(self, exc: ApiError) -> ApiError:
        self.refused[exc.code] = self.refused.get(exc.code, 0) + 1
        return exc


def _faults(events: Sequence[ExecutorEvent], exc: EventsRejected) -> tuple[EventError, ...]:
    return tuple(
        EventError(index=place, event_id=events[place].event_id, reason=reason)
        for place, reason in sorted(exc.reasons.items())
    )


def _key(request: Request) -> str:
    key = request.headers.get("idempotency-key", "")
    if len(key) > _MAX_KEY:
        raise ApiError(400, "key", f"Idempotency-Key: longer than {_MAX_KEY} characters")
    return key


def _answer(body: msgspec.Struct, status: int) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
