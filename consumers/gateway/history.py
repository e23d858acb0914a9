"""
Reading the stream's past by pages, and `GET /api/executions/{id}`: the events of one execution in order.

A slow client holds no resources on the server between two pages.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from consumers.gateway.errors import ApiError
from consumers.gateway.hub import EventFilter, encoded_event, one_line
from consumers.gateway.requests import read_limit, read_number
from noetl_events.jetstream.consume.history import History, Span
from noetl_events.jetstream.errors import NatsUnavailable, StreamReplaced
from noetl_events.jetstream.message import delivery_of
from noetl_events.jetstream.streams import show_stream
from noetl_events.json_values import MIN_INT64

if TYPE_CHECKING:
    from starlette.requests import Request

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.message import Message

_PAGE: Final = 1_000
_BYTES: Final = 4 * 1024 * 1024
_READERS: Final = 8
_PATIENCE: Final = 5.0


class StreamHistory:
    """
    The stored messages of *stream*, by pages.

    Args:
        connection: connection to NATS; the caller closes it.
        stream: name of the stream.

    """

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._readers = asyncio.Semaphore(_READERS)

    async def bounds(self) -> tuple[int, int]:
        """Return the first and the last stream sequence; raises `NatsUnavailable`."""
        state = (await show_stream(self._connection, self._stream)).state
        return state.first_seq, state.last_seq

    async def page(self, behind: int) -> tuple[int, list[Message], int]:
        """
        Return the first sequence of the stream, the next messages behind *behind*, and the end of this page.

        Raises:
            NatsUnavailable: the stream cannot be read now.
            StreamReplaced: the stream was recreated meanwhile.

        """
        messages: list[Message] = []
        async with self._readers:
            span = Span(stream=self._stream, start=behind + 1)
            history = History(self._connection, span, patience=_PATIENCE, max_messages=_PAGE, max_bytes=_BYTES)
            async with history:
                while len(messages) < _PAGE and (batch := await history.read(_PAGE - len(messages))):
                    messages += batch
                    if sum(len(message.data) for message in batch) > _BYTES:
                        break
                else:
                    if len(messages) < _PAGE:
                        return history.first, messages, max(history.end, behind)
        return history.first, messages, delivery_of(messages[-1]).sequence


_MAX_LIMIT: Final = 10_000
_LIMIT: Final = 1_000
_MAX_BYTES: Final = 8 * 1024 * 1024
_TURN: Final = 3.0
_COME_AGAIN: Final = 2


class Executions:
    """
    Search *history* for the events of an execution.

    A response is limited by the number of events, megabytes and seconds: its `next` is the position of the next page,
    and null at the end of the stream.
    """

    def __init__(self, history: StreamHistory) -> None:
        self._history = history

    async def show(self, request: Request) -> Response:
        """Return a page of events."""
        wanted = EventFilter(read_number("execution_id", request.path_params["execution_id"], MIN_INT64))
        after = read_number("after", request.query_params.get("after", "0"), 0)
        limit = read_limit(request, _LIMIT, _MAX_LIMIT)
        try:
            events, following = await self._search(wanted, after, limit)
        except (NatsUnavailable, StreamReplaced) as exc:
            raise ApiError(503, "unavailable", str(exc), retry_after=_COME_AGAIN) from exc
        body = b'{"execution_id":%d,"events":[%b],"next":%b}' % (
            wanted.execution_id or 0,
            b",".join(events),
            b"null" if following is None else b"%d" % following,
        )
        return Response(body, media_type="application/json")

    async def _search(self, wanted: EventFilter, after: int, limit: int) -> tuple[list[bytes], int | None]:
        found: list[bytes] = []
        size, deadline = 0, time.monotonic() + _TURN
        _, last = await self._history.bounds()
        while after < last:
            _, messages, end = await self._history.page(after)
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


def _event(message: Message, wanted: EventFilter) -> tuple[int, bytes] | None:
    # Searching for the digits first saves decoding most of a stream; a body with escapes is decoded in any case.
    digits = str(abs(wanted.execution_id or 0)).encode()
    if digits not in message.data and b"\\u" not in message.data:
        return None
    event = encoded_event(message)
    if not event.data or not wanted.matches(event):
        return None
    return event.sequence, b'{"sequence":%d,"event":%b}' % (event.sequence, one_line(message.data))
