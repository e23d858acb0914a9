"""`GET /api/executions/{id}`: what the stream holds of one execution, in its order."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from consumers.gateway.frame import Wanted, frame_of, one_line
from consumers.gateway.refusal import Fault, Refused
from consumers.gateway.streaming import read_number
from noetl_events.jetstream.errors import NatsUnavailable, StreamReplaced
from noetl_events.json_values import MIN_INT64

if TYPE_CHECKING:
    from starlette.requests import Request

    from consumers.gateway.past import Past
    from noetl_events.jetstream.delivery import Message

_MAX_LIMIT: Final = 10_000
_LIMIT: Final = 1_000
_MAX_BYTES: Final = 8 * 1024 * 1024
_TURN: Final = 3.0
_COME_AGAIN: Final = 2


class Executions:
    """
    Look through *past* for the events of an execution.

    An answer has at most *limit* events, and ends after some megabytes and seconds in any case: `next` says where the
    next one begins, and is null at the end of the stream.
    """

    def __init__(self, past: Past) -> None:
        self._past = past

    async def show(self, request: Request) -> Response:
        """Return a page of events."""
        wanted = Wanted(read_number("execution_id", request.path_params["execution_id"], MIN_INT64))
        after = read_number("after", request.query_params.get("after", "0"), 0)
        limit = read_limit(request, _LIMIT, _MAX_LIMIT)
        try:
            events, following = await self._look(wanted, after, limit)
        except (NatsUnavailable, StreamReplaced) as exc:
            raise Refused(503, "unavailable", str(exc), retry_after=_COME_AGAIN) from exc
        body = b'{"execution_id":%d,"events":[%b],"next":%b}' % (
            wanted.execution_id or 0,
            b",".join(events),
            b"null" if following is None else b"%d" % following,
        )
        return Response(body, media_type="application/json")

    async def _look(self, wanted: Wanted, after: int, limit: int) -> tuple[list[bytes], int | None]:
        found: list[bytes] = []
        size, deadline = 0, time.monotonic() + _TURN
        _, last = await self._past.bounds()
        while after < last:
            _, messages, end = await self._past.page(after)
            for message in messages:
                if event := _event(message, wanted):
                    sequence, text = event
                    found.append(text)
                    size += len(text)
                    if len(found) == limit or size >= _MAX_BYTES:
                        return found, sequence if sequence < last else None
            after = end
            if time.monotonic() > deadline:
                break
        return found, after if after < last else None


def _event(message: Message, wanted: Wanted) -> tuple[int, bytes] | None:
    # To look for the digits first saves decoding most of a stream; they could stand as escapes.
    digits = str(abs(wanted.execution_id or 0)).encode()
    if digits not in message.data and b"\\u" not in message.data:
        return None
    frame = frame_of(message)
    if not frame.data or not wanted.takes(frame):
        return None
    return frame.sequence, b'{"sequence":%d,"event":%b}' % (frame.sequence, one_line(message.data))


def read_limit(request: Request, default: int, maximum: int) -> int:
    """Return the `limit` of *request*; raises `Refused`."""
    limit = read_number("limit", request.query_params.get("limit", str(default)), 1)
    if limit > maximum:
        reason = f"limit: {limit} is more than {maximum}"
        raise Refused(422, "query", reason, errors=(Fault(field="limit", reason=reason),))
    return limit
