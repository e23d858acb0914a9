"""
The streams and the consumers, looked at from outside the loop every ten seconds.

How much is pending, also while the loop holds and receives nothing.  Whether the consumer was edited, paused or deleted
by hand: its puller begins anew with it then.  Whether the streams are still configured as they must be.  And whether
the stream is still the one it was: one that was created again, or lost its end in a power cut, starts its sequences
again.  Nothing here goes by sequence, so nothing is skipped for it; but an operator has to know.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from consumers.stream_review import StreamReview
from noetl_events.jetstream.consumers import show_consumer
from noetl_events.jetstream.errors import ConsumerMissing, NatsUnavailable, PermissionDenied, Refused
from noetl_events.jetstream.streams import find_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from consumers.projector import Projector
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration
    from noetl_events.jetstream.streams import FoundStream

_INTERVAL: Final = 10.0

log = structlog.get_logger()


class StreamWatch:
    """
    Watch the streams of a projector and the consumers it reads.

    Args:
        connection: to NATS; it stays open.
        stream: of the events.
        beside: the streams that a projector writes to.
        projectors: gives those that run now; their `progress.pending` is kept up to date.
        interval: seconds between two looks.

    """

    def __init__(
        self,
        connection: Connection,
        stream: StreamDeclaration,
        projectors: Callable[[], Iterable[Projector]],
        *,
        beside: Iterable[StreamDeclaration] = (),
        interval: float = _INTERVAL,
    ) -> None:
        self.identity_changes = 0
        """How often the stream was found created again, or shorter than before."""

        self._connection = connection
        self._stream = stream
        self._review = StreamReview(connection)
        self._beside = list(beside)
        self._projectors = projectors
        self._interval = interval
        self._looking = asyncio.Lock()
        self._looks = 0
        self._may_look = True
        self._created = ""
        self._last_sequence = 0

    @property
    def fault(self) -> str:
        """Why events may be lost, or are not stored; empty if nothing is known to be wrong."""
        return self._review.fault

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self._look()
            await asyncio.sleep(self._interval)

    async def look(self) -> None:
        """
        Look at the stream before it is read; who asks meanwhile shares the answer.

        Raises:
            StreamDrift: it must not be read, and never could be since the start.
            NatsUnavailable: it cannot be looked at now, or must not be read any more.

        """
        looks = self._looks
        async with self._looking:
            if looks == self._looks and self._may_look:
                await self._look_at_stream()

    async def _look(self) -> None:
        for look in (self.look, self._look_at_consumers, self._look_beside):
            try:
                await look()
            except NatsUnavailable as exc:
                # The loop itself says so where it matters.
                log.debug("stream.unseen", reason=str(exc))

    async def _look_at_consumers(self) -> None:
        for projector in self._projectors():
            await self._look_at(projector)

    async def _look_at(self, projector: Projector) -> None:
        try:
            consumer = await show_consumer(self._connection, projector.consumer)
        except ConsumerMissing:
            projector.puller.look_at(None)
            return
        projector.progress.note_pending(consumer.num_pending, behind=consumer.delivered.stream_seq)
        projector.puller.look_at(consumer)

    async def _look_at_stream(self) -> None:
        try:
            found = await find_stream(self._connection, self._stream.name)
        except PermissionDenied as exc:
            # Old permissions lack this right: read on, and do not ask again.
            self._may_look = False
            log.warning("stream.unseen", stream=self._stream.name, reason=str(exc))
            return
        self._compare(found)
        await self._review.note(self._stream, found)
        self._looks += 1

    async def _look_beside(self) -> None:
        for declared in list(self._beside):
            try:
                found = await find_stream(self._connection, declared.name)
            except (PermissionDenied, Refused) as exc:
                self._beside.remove(declared)
                log.warning("stream.unseen", stream=declared.name, reason=str(exc))
            else:
                await self._review.note(declared, found)

    def _compare(self, found: FoundStream) -> None:
        created, last_sequence = found.created, found.state.last_seq
        if self._created and (created != self._created or last_sequence < self._last_sequence):
            self.identity_changes += 1
            log.error(
                "stream.identity_changed",
                stream=self._stream.name,
                created=created,
                was_created=self._created,
                last_sequence=last_sequence,
                was_last_sequence=self._last_sequence,
            )
        self._created, self._last_sequence = created, last_sequence
