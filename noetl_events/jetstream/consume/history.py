"""
Read a stream without a durable consumer: its past once, up to its end, or continuously with each new message.

A following read leaves nothing on the server, and continues after a loss:

    the connection, the server or the consumer was lost   continues after the last message
    the stream was deleted                                waits until the stream exists again
    ... and created again                                 continues with its first message
    the stream has lost its end                           fails, because new messages cannot be told from old ones
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
from noetl_events.jetstream.streams import StreamPosition, show_stream
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
        stream: name of the stream.
        start: sequence or time of the first message; None for the first one stored.
        end: sequence of the last message; None for the last one stored when the reading begins.
        subject: subject of the messages; empty for all.
        headers_only: True to omit the bodies.

    """

    stream: str
    start: int | datetime | None = None
    end: int | None = None
    subject: str = ""
    headers_only: bool = False


class History:
    """
    Read *span* from its first message to its last, each once; an async context manager.

    The consumer is its own and acknowledges nothing, so other readers are not affected.  After reconnections, restarts
    and leader changes the reading continues after the last message read.

    Args:
        connection: connection to NATS; it is not closed here.
        span: part of the stream to read.
        patience: seconds for which `read` retries while NATS is unavailable.
        max_messages: most messages buffered and requested.
        max_bytes: most bytes of payloads buffered and requested; a single message of any size always passes.
        heartbeat: seconds between two heartbeats of an idle server; after twice as long the server counts as lost.

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
        """Sequence of the first message stored when the reading began."""
        self.end = 0
        """Sequence of the last message to read."""
        self.total = 0
        """Number of messages to read when the reading began; some may be deleted before they are read."""
        self.position = 0
        """Sequence of the last message read; 0 before the first."""

        self._connection = connection
        self._patience = patience
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._heartbeat = heartbeat
        self._known: StreamPosition | None = None
        self._consumer: EphemeralConsumer | None = None
        self._is_done = False

    async def __aenter__(self) -> Self:
        try:
            await self._retry(self._open_consumer)
        except BaseException:
            # `__aexit__` does not run after a failed entry, so release the consumer here.
            await self._close_consumer()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_done = True
        await self._close_consumer()

    async def read(self, limit: int = 2_000) -> Sequence[Message]:
        """
        Return the next 1 to *limit* messages in stream order; none after the last.

        Raises:
            StreamReplaced: the stream is not the one this reading began with.
            StreamMissing: the stream does not exist.
            PermissionDenied: the account may not read the stream.
            Refused: the server refuses such a consumer.
            NatsUnavailable: NATS was unavailable for *patience* seconds; another `read` continues safely.

        """
        batch: list[Message] = [] if self._is_done else [*await self._retry(lambda: self._pull(limit))]
        while batch and delivery_of(batch[-1]).sequence > self.end:
            batch.pop()
        if batch:
            self.position = delivery_of(batch[-1]).sequence
        self._is_done = not batch or self.position >= self.end
        return batch

    async def _retry(self, call: Callable[[], Awaitable[T]]) -> T:
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
                await self._close_consumer()
        return result

    async def _pull(self, limit: int) -> Sequence[Message]:
        consumer = await self._open_consumer()
        return [] if consumer is None else await consumer.pull(limit)

    async def _open_consumer(self) -> EphemeralConsumer | None:
        """Return the consumer, created if necessary; None if there is nothing to read."""
        if self._consumer is not None:
            return self._consumer
        await self._check_stream()
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

    async def _check_stream(self) -> None:
        """Check that the stream is the one this reading began with; the first call records it."""
        info = await show_stream(self._connection, self.span.stream)
        found = StreamPosition(str(info.created), info.state.last_seq)
        if self._known is None:
            self._known, self.first = found, info.state.first_seq
            self.end = found.last_seq if self.span.end is None else min(self.span.end, found.last_seq)
            if isinstance(self.span.start, int) and self.span.start < self.first:
                log.warning("history.begins_later", stream=self.span.stream, wanted=self.span.start, first=self.first)
        elif not found.still_has(self._known):
            raise StreamReplaced(
                f"stream {self.span.stream} was created again, or lost its end, after sequence {self.position} was "
                "read: its sequences now belong to other messages; start over"
            )

    async def _close_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.aclose()


async def read_span(
    connection: Connection, span: Span, *, patience: float = 60.0, max_messages: int = 8_000
) -> AsyncGenerator[Message, None]:
    """
    Yield the messages of *span* one by one; arguments and errors are those of `History`.

    Close the generator (`contextlib.aclosing`) when stopping early, or its consumer stays on the server for minutes.
    """
    async with History(connection, span, patience=patience, max_messages=max_messages) as history:
        while messages := await history.read():
            for message in messages:
                yield message


_LIMIT: Final = 2_000


async def follow(
    connection: Connection, stream: str, *, subject: str = ">", from_start: bool = False
) -> AsyncGenerator[Message, None]:
    """
    Yield the messages of *stream* in order and without end: new ones, or all with *from_start*.

    After the start, every interruption is logged and retried.

    Raises:
        StreamMissing: the stream did not exist at the start.
        StreamReplaced: the stream has lost its end.
        PermissionDenied: the account may not read the stream.
        NatsUnavailable: NATS was unavailable at the start.

    """
    known = await _end_of(connection, stream)
    position = 0 if from_start else known.last_seq
    async for attempt in Retry(NatsUnavailable, unless=PermissionDenied, backoff=_WAITS, log="tail", stream=stream):
        with attempt:
            found = await _end_of(connection, stream)
            known, position = found, _position_in(stream, found, known, position)
            consumer = EphemeralConsumer(connection, stream, follows=True)
            wanted = "" if subject == ">" else subject
            async with aclosing(read_new(consumer, attempt, start=position + 1, subject=wanted)) as batches:
                async for messages in batches:
                    for message in messages:
                        yield message
                        position = delivery_of(message).sequence


async def _end_of(connection: Connection, stream: str) -> StreamPosition:
    info = await show_stream(connection, stream)
    return StreamPosition(str(info.created), info.state.last_seq)


def _position_in(stream: str, found: StreamPosition, known: StreamPosition, position: int) -> int:
    """Return the sequence to continue after: *position*, or 0 if the stream was recreated since it was *known*."""
    if found.created != known.created:
        log.warning("tail.stream_replaced", stream=stream, created=found.created, was_created=known.created)
        return 0
    if found.last_seq < position:
        raise StreamReplaced(
            f"stream {stream} has lost its end: it ends at sequence {found.last_seq}, and sequence {position} was "
            "shown; run tail again"
        )
    return position


async def read_new(
    consumer: EphemeralConsumer, attempt: Retry, *, start: int, subject: str = ""
) -> AsyncGenerator[list[Message], None]:
    """
    Yield an empty list once messages can be read from sequence *start* on, then each batch that arrives.

    Args:
        consumer: consumer that follows its stream; it is closed at the end.
        attempt: attempt of the caller, which is told that it works.
        start: sequence of the first message.
        subject: subject of the messages; empty for all.

    Raises:
        NatsUnavailable: the reading has failed (subclasses give the reason); continue with another consumer.

    """
    try:
        await consumer.open(start=start, subject=subject)
        # After a failure the first answer proves that the stream can be read again.
        await consumer.start(await_answer=attempt.attempts > 1)
        attempt.works()
        yield []
        while True:
            yield await consumer.pull(_LIMIT)
    finally:
        await consumer.aclose()
