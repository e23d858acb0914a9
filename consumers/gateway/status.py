"""`GET /api/status` and `GET /api/dead`: the stream, its consumers, and its dead letters."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.responses import Response

from consumers.dead_letters.letter import read_letter
from consumers.gateway.errors import ApiError
from consumers.gateway.requests import read_limit
from noetl_events.jetstream.consume.history import History, Span
from noetl_events.jetstream.consumers import Reading, durable_consumers
from noetl_events.jetstream.declarations import DEAD_STREAM
from noetl_events.jetstream.errors import NatsUnavailable, StreamMissing, StreamReplaced
from noetl_events.jetstream.storage import stored_of
from noetl_events.jetstream.streams import show_stream

if TYPE_CHECKING:
    from starlette.requests import Request

    from noetl_events.jetstream.connection import Connection

_LIMIT: Final = 100
_MAX_LIMIT: Final = 1_000
_MAX_PAYLOAD: Final = 65_536
_COME_AGAIN: Final = 2
_PATIENCE: Final = 5.0


class _Stream(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    messages: int
    first_sequence: int
    last_sequence: int
    created: str


class _Status(msgspec.Struct, frozen=True, kw_only=True):
    stream: _Stream
    consumers: list[Reading]
    dead_letters: int


class _Dead(msgspec.Struct, frozen=True, kw_only=True):
    sequence: int
    kind: str
    reason: str
    buried_at: datetime
    subject: str
    payload: str
    size: int


class Status:
    """
    Status of *stream* and its dead letters.

    Args:
        connection: connection to NATS; the caller closes it.
        stream: name of the stream.
        dead: name of the dead-letter stream.

    """

    def __init__(self, connection: Connection, stream: str, dead: str = DEAD_STREAM) -> None:
        self._connection = connection
        self._stream = stream
        self._dead = dead

    async def status(self, _: Request) -> Response:
        """Return the state of the stream and of its durable consumers."""
        try:
            return _answer(await self._read_status())
        except NatsUnavailable as exc:
            raise _unavailable(exc) from exc

    async def dead(self, request: Request) -> Response:
        """Return the newest dead letters, newest first."""
        try:
            return _answer(await self._newest(read_limit(request, _LIMIT, _MAX_LIMIT)))
        except StreamMissing:
            return _answer([])
        except (NatsUnavailable, StreamReplaced) as exc:
            raise _unavailable(exc) from exc

    async def _read_status(self) -> _Status:
        info = await show_stream(self._connection, self._stream)
        stream = _Stream(
            name=self._stream,
            messages=info.state.messages,
            first_sequence=info.state.first_seq,
            last_sequence=info.state.last_seq,
            created=str(info.created),
        )
        consumers = await durable_consumers(self._connection, self._stream)
        return _Status(stream=stream, consumers=consumers, dead_letters=await self._count_dead())

    async def _count_dead(self) -> int:
        try:
            return (await show_stream(self._connection, self._dead)).state.messages
        except StreamMissing:
            return 0

    async def _newest(self, limit: int) -> list[_Dead]:
        state = (await show_stream(self._connection, self._dead)).state
        width = limit
        while True:
            start = max(state.last_seq - width + 1, state.first_seq, 1)
            letters = await self._read(start, limit)
            # Deleted letters leave gaps, so a wider range is read until there are enough.
            if len(letters) == limit or start <= max(state.first_seq, 1):
                return letters[::-1]
            width *= 8

    async def _read(self, start: int, limit: int) -> list[_Dead]:
        letters: deque[_Dead] = deque(maxlen=limit)
        async with History(self._connection, Span(stream=self._dead, start=start), patience=_PATIENCE) as history:
            while messages := await history.read():
                for message in messages:
                    letter = read_letter(stored_of(message))
                    payload = letter.body[:_MAX_PAYLOAD].decode(errors="replace")
                    letters.append(
                        _Dead(
                            sequence=letter.sequence,
                            kind=letter.kind,
                            reason=letter.reason,
                            buried_at=letter.buried_at,
                            subject=letter.subject,
                            payload=payload,
                            size=len(letter.body),
                        )
                    )
        return list(letters)


def _answer(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json", headers={"cache-control": "no-store"})


def _unavailable(exc: Exception) -> ApiError:
    return ApiError(503, "unavailable", str(exc), retry_after=_COME_AGAIN)
