"""
Follow a stream without a durable consumer: an ordered read that leaves nothing behind on the server.

    the connection, the server or the consumer was lost   goes on behind the last message
    the stream was deleted                                waits until it is there again
    ... and created anew                                  goes on with its first message
    the stream has lost its end                           ends: which messages are new cannot be told
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import structlog

from noetl_events.jetstream.delivery import delivery_of
from noetl_events.jetstream.ephemeral import EphemeralConsumer
from noetl_events.jetstream.errors import NatsUnavailable, PermissionDenied, StreamReplaced
from noetl_events.jetstream.history import History, Span
from noetl_events.jetstream.topology import show_stream
from noetl_events.retry import Backoff, Retry

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.delivery import Message

_LIMIT: Final = 500
_WAITS: Final = Backoff(initial=0.1, maximum=5.0)

log = structlog.get_logger()


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
