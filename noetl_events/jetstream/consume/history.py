"""
Reading a stream without a durable consumer: its past once, up to its end, or onwards with each new message.

A following read leaves nothing behind on the server, and continues after a loss:

    the connection, the server or the consumer was lost   goes on behind the last message
    the stream was deleted                                waits until it is there again
    ... and created anew                                  goes on with its first message
    the stream has lost its end                           ends: which messages are new cannot be told
"""

from __future__ import annotations

from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Final, Self, TypeVar

import msgspec
import structlog

from noetl_events.jetstream.consume.ephemeral import EphemeralConsumer
from noetl_events.jetstream.errors import NatsUnavailable, PermissionDenied, Refused, StreamMissing, StreamReplaced
from noetl_events.jetstream.message import delivery_of
from noetl_events.jetstream.streams import Watermark, show_stream
from noetl_events.retry import Backoff, Retry

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.message import Message

_WAITS: Final = Backoff(initial=0.1, maximum=5.0)

T = TypeVar("T")

log = structlog.get_logger()


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """
    A part of a stream's past.

    Args:
        stream: that holds it.
        start: the sequence or the time of its first message; None for the first there is.
        end: the sequence of its last message; None for the last there is when the reading begins.
        subject: of the messages wanted; empty for all.
        headers_only: leave out the bodies.

    """

    stream: str
    start: int | datetime | None = None
    end: int | None = None
    subject: str = ""
    headers_only: bool = False


class History:
    """
    Read *span* from its first message to its last, each once; `async with` begins and ends it.

    It disturbs nobody: its consumer is its own, and nothing is acknowledged.  Through reconnections, restarts and a new
    leader it goes on behind the last message read.

    Args:
        connection: to NATS; it stays open.
        span: what to read.
        patience: seconds `read` waits while NATS is away.
        max_messages: received and not yet read, or asked for, at most.
        max_bytes: likewise, of their payloads; but one message of any size always passes.
        heartbeat: seconds between two signs of life of a quiet server; after twice as long it counts as gone.

    """

    def __init__(
        self,
        connection: Connection,
        span: Span,
        *,
        patience: float = 60.0,
        max_messages: int = 8_000,
        max_bytes: int = 32 * 1024 * 1024,
        heartbeat: float = 5.0,
    ) -> None:
        self.span = span
        self.first = 0
        """The sequence of the first message the stream held at the beginning."""
        self.end = 0
        """The sequence after which nothing is read."""
        self.total = 0
        """Messages there were to read at the beginning: some may be deleted before they are."""
        self.position = 0
        """The sequence of the last message read; 0 before the first."""

        self._connection = connection
        self._patience = patience
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._heartbeat = heartbeat
        self._mark: Watermark | None = None
        self._consumer: EphemeralConsumer | None = None
        self._over = False

    async def __aenter__(self) -> Self:
        try:
            await self._hold(self._ready)
        except BaseException:
            # Cancelled or not: who never got in is never told to leave.
            await self._leave()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await self._leave()

    async def read(self, limit: int = 2_000) -> Sequence[Message]:
        """
        Return the next 1 to *limit* messages in the order of the stream; none after the last.

        Raises:
            StreamReplaced: the stream is not the one this reading began with.
            StreamMissing: there is no such stream.
            PermissionDenied: the account may not read it.
            Refused: the server will not let it be read like this.
            NatsUnavailable: for *patience* seconds it could not be read; reading on is safe.

        """
        batch: list[Message] = [] if self._over else [*await self._hold(lambda: self._pull(limit))]
        while batch and delivery_of(batch[-1]).sequence > self.end:
            batch.pop()
        if batch:
            self.position = delivery_of(batch[-1]).sequence
        self._over = not batch or self.position >= self.end
        return batch

    async def _hold(self, call: Callable[[], Awaitable[T]]) -> T:
        retry = Retry(
            NatsUnavailable,
            unless=(StreamMissing, PermissionDenied, Refused),
            backoff=_WAITS,
            patience=self._patience,
            log="history",
            stream=self.span.stream,
            after=self.position,
        )
        async for attempt in retry:
            with attempt:
                result = await call()
            if attempt.error:
                await self._leave()
        return result

    async def _pull(self, limit: int) -> Sequence[Message]:
        consumer = await self._ready()
        return [] if consumer is None else await consumer.pull(limit)

    async def _ready(self) -> EphemeralConsumer | None:
        """Return the consumer, created if there is none; None when there is nothing to read."""
        if self._consumer is not None:
            return self._consumer
        await self._recognise()
        start = self.position + 1 if self.position else self.span.start
        first = max(self.first, start if isinstance(start, int) else 0)
        if first > self.end:
            return None
        consumer = EphemeralConsumer(
            self._connection,
            self.span.stream,
            max_messages=self._max_messages,
            max_bytes=self._max_bytes,
            heartbeat=self._heartbeat,
        )
        await consumer.open(start=start, subject=self.span.subject, headers_only=self.span.headers_only)
        self.total = self.total or min(consumer.pending, self.end - first + 1)
        self._consumer = consumer
        return consumer

    async def _recognise(self) -> None:
        """See that the stream is the one this reading began with, or begin it."""
        info = await show_stream(self._connection, self.span.stream)
        mark = Watermark(str(info.created), info.state.last_seq)
        if self._mark is None:
            self._mark, self.first = mark, info.state.first_seq
            self.end = mark.last_seq if self.span.end is None else min(self.span.end, mark.last_seq)
            if isinstance(self.span.start, int) and self.span.start < self.first:
                log.warning("history.begins_later", stream=self.span.stream, wanted=self.span.start, first=self.first)
        elif not mark.has_kept(self._mark):
            raise StreamReplaced(
                f"stream {self.span.stream} was created again, or lost its end, after sequence {self.position} was "
                "read: its sequences name other messages now; start over"
            )

    async def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.aclose()


_LIMIT: Final = 500


async def follow(
    connection: Connection, stream: str, *, subject: str = ">", from_start: bool = False, until_end: bool = False
) -> AsyncGenerator[Message, None]:
    """
    Yield the messages of *stream* in order: new ones, or all of them with *from_start*, and end with *until_end*.

    Once it has begun it goes on through every interruption, with a line in the log for each.

    Raises:
        StreamMissing: there was no such stream at the beginning.
        StreamReplaced: the stream has lost its end.
        PermissionDenied: the account may not read it.
        NatsUnavailable: it could not begin.

    """
    if until_end:
        # Of new messages there is none before the end.
        span = Span(stream=stream, subject=subject, end=None if from_start else 0)
        async with History(connection, span) as history:
            while messages := await history.read():
                for message in messages:
                    yield message
        return
    place = _Place(connection, stream, from_start=from_start)
    wanted = "" if subject == ">" else subject
    await place.find()
    retry = Retry(NatsUnavailable, unless=PermissionDenied, backoff=_WAITS, log="tail", stream=stream)
    async for attempt in retry:
        with attempt:
            await place.find()
            async with aclosing(_read(connection, place, wanted, attempt)) as read:
                async for message in read:
                    yield message


async def _read(connection: Connection, place: _Place, subject: str, attempt: Retry) -> AsyncGenerator[Message, None]:
    consumer = EphemeralConsumer(connection, place.stream, follows=True)
    try:
        await consumer.open(start=place.last + 1, subject=subject)
        await consumer.begin(await_answer=attempt.attempts > 1)
        attempt.works()
        while True:
            for message in await consumer.pull(_LIMIT):
                yield message
                place.last = delivery_of(message).sequence
    finally:
        await consumer.aclose()


class _Place:
    """How far a stream was read, and which stream that is."""

    def __init__(self, connection: Connection, stream: str, *, from_start: bool) -> None:
        self.last = 0
        """The sequence of the last message that was read, or passed over at the beginning."""

        self.stream = stream
        self._connection = connection
        self._from_start = from_start
        self._created = ""

    async def find(self) -> None:
        """
        Find it in the stream as it is now.

        Raises:
            StreamReplaced: the stream has lost its end.
            NatsUnavailable: the stream cannot be looked at; `StreamMissing` if it does not exist.

        """
        info = await show_stream(self._connection, self.stream)
        created, end = str(info.created), info.state.last_seq
        if not self._created:
            self.last = 0 if self._from_start else end
        elif created != self._created:
            log.warning("tail.stream_replaced", stream=self.stream, created=created, was_created=self._created)
            self.last = 0
        elif end < self.last:
            raise StreamReplaced(
                f"stream {self.stream} has lost its end: it reaches up to {end}, and {self.last} was shown; "
                "run tail again"
            )
        self._created = created
