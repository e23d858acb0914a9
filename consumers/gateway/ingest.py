"""Events in: answered when the stream has them, and never with a success before."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.responses import Response

from consumers.gateway.batch import conflicting, malformed, read_many, read_one
from consumers.gateway.refusal import Fault, Refused
from consumers.gateway.requests_seen import RequestsSeen
from noetl_events.ids import process_ids
from noetl_events.sink import EventsRejected, SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.requests import Request

    from consumers.gateway.bodies import Intake
    from noetl_events.envelope import ExecutorEvent
    from noetl_events.sink import EventSink

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
    Take events over HTTP into *sink*.

    Args:
        sink: to store them; it gives up within seconds, so that clients learn of it.
        intake: bounds what is in hand.
        new_id: makes the id of an event that came without.

    """

    def __init__(self, sink: EventSink, intake: Intake, *, new_id: Callable[[], int] | None = None) -> None:
        self.stored = 0
        """Events answered with a success."""
        self.refused: dict[str, int] = {}
        """Requests that were not, by code."""

        self._sink = sink
        self._intake = intake
        self._new_id = new_id or process_ids()
        self._seen = RequestsSeen()

    async def one(self, request: Request) -> Response:
        """Store the event in the body."""
        try:
            with self._intake.place() as place:
                event = read_one(await self._intake.read(request, place), self._new_id)
                await self._store([event])
        except Refused as exc:
            raise self._counted(exc) from None
        return _answer(_Stored(event_id=event.event_id or 0), 200)

    async def many(self, request: Request) -> Response:
        """Store the events in the body; with an `Idempotency-Key`, a body sent again keeps the ids it was given."""
        try:
            key = _key(request)
            with self._intake.place() as place:
                body = await self._intake.read(request, place)
                known = self._seen.find(key, body)
                events = known.events if known else read_many(body, self._new_id)
                seen = known or self._seen.note(key, body, events)
                is_duplicate = seen.stored
                await self._store(events)
                seen.stored = True
        except Refused as exc:
            raise self._counted(exc) from None
        ids = tuple(event.event_id or 0 for event in events)
        return _answer(_Accepted(request_id=seen.request_id, event_ids=ids, duplicate=is_duplicate), 202)

    async def _store(self, events: Sequence[ExecutorEvent]) -> None:
        try:
            await self._sink.emit_batch(events)
        except SinkUnavailable as exc:
            wait = max(_COME_AGAIN, math.ceil(exc.retry_after or 0))
            raise Refused(503, "unavailable", exc.reason, retry_after=wait) from exc
        except EventsRejected as exc:
            refuse = conflicting if exc.conflicts == exc.reasons.keys() else malformed
            raise refuse(_faults(events, exc)) from exc
        self.stored += len(events)

    def _counted(self, exc: Refused) -> Refused:
        self.refused[exc.code] = self.refused.get(exc.code, 0) + 1
        return exc


def _faults(events: Sequence[ExecutorEvent], exc: EventsRejected) -> tuple[Fault, ...]:
    return tuple(
        Fault(index=place, event_id=events[place].event_id, reason=reason)
        for place, reason in sorted(exc.reasons.items())
    )


def _key(request: Request) -> str:
    key = request.headers.get("idempotency-key", "")
    if len(key) > _MAX_KEY:
        raise Refused(400, "key", f"Idempotency-Key: longer than {_MAX_KEY} characters")
    return key


def _answer(body: msgspec.Struct, status: int) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
