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
from noetl_events.jetstream.consumer_position import StreamEnd
from noetl_events.jetstream.consumers import show_consumer
from noetl_events.jetstream.errors import ConsumerMissing, NatsUnavailable, PermissionDenied, Refused, StreamMissing
from noetl_events.jetstream.stored import find_stored
from noetl_events.jetstream.stream_identity import StreamIdentity
from noetl_events.jetstream.streams import find_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from consumers.identity_notes import IdentityNotes
    from consumers.projector import Projector
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.consumers import ConsumerInfo
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
        projectors: gives those that run now; their `progress` is kept up to date.
        notes: remembers the identity of the stream for the next start.
        beside: the streams that a projector writes to.
        interval: seconds between two looks.

    """

    def __init__(
        self,
        connection: Connection,
        stream: StreamDeclaration,
        projectors: Callable[[], Iterable[Projector]],
        *,
        notes: IdentityNotes | None = None,
        beside: Iterable[StreamDeclaration] = (),
        interval: float = _INTERVAL,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._identity = StreamIdentity(connection, stream.name)
        self._notes = notes
        self._review = StreamReview(connection)
        self._beside = list(beside)
        self._projectors = projectors
        self._interval = interval
        self._looking = asyncio.Lock()
        self._looks = 0
        self._may_look = True
        self._may_look_at_messages = True
        self._end = 0
        self._replaced: list[int] = []
        self._begun: dict[str, int] = {}

    @property
    def identity_changes(self) -> int:
        """How often the stream was found created again, set back, or shorter than before."""
        return len(self._replaced)

    @property
    def fault(self) -> str:
        """Why events may be lost, or are not stored; empty if nothing is known to be wrong."""
        return self._review.fault

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self._look()
            await asyncio.sleep(self._interval)

    async def look(self, consumer: str = "") -> StreamEnd | None:
        """
        Look at the stream, before *consumer* is read; who asks meanwhile shares the answer.

        Returns:
            Where the stream ends, and from where *consumer* has to be read anew; None if it must not be looked at.

        Raises:
            StreamDrift: it must not be read, and never could be since the start.
            NatsUnavailable: it cannot be looked at now, or must not be read any more.

        """
        looks = self._looks
        async with self._looking:
            if looks == self._looks and self._may_look:
                await self._look_at_stream()
        if not self._may_look:
            return None
        unknown = self._replaced[self._begun.get(consumer, 0) :]
        self._begun[consumer] = len(self._replaced)
        return StreamEnd(self._end, min(unknown) if unknown else None)

    async def _look(self) -> None:
        for look in (self.look, self._look_at_consumers, self._look_beside):
            try:
                await look()
            except NatsUnavailable as exc:
                # The loop itself says so where it matters.
                log.debug("stream.unseen", reason=str(exc))

    async def _look_at_stream(self) -> None:
        try:
            found = await find_stream(self._connection, self._stream.name)
        except PermissionDenied as exc:
            # Old permissions lack this right: read on, and do not ask again.
            self._may_look = False
            log.warning("stream.unseen", stream=self._stream.name, reason=str(exc))
            return
        await self._compare(found)
        await self._review.note(self._stream, found)
        self._looks += 1

    async def _compare(self, found: FoundStream) -> None:
        if self._notes is not None:
            await self._notes.load(self._identity)
        replaced = await self._identity.look(found)
        self._end = found.state.last_seq
        if replaced is not None:
            self._replaced.append(replaced.kept)
            log.error(
                "stream.identity_changed",
                stream=self._stream.name,
                kept_up_to=replaced.kept,
                created=replaced.now.created,
                was_created=replaced.before.created,
                last_sequence=replaced.now.sequence,
                was_last_sequence=replaced.before.sequence,
            )
            for projector in self._projectors():
                projector.puller.begin_again("the stream is another one, or lost its end")
        if self._notes is not None:
            await self._notes.save(self._identity)

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
        if consumer.delivered.stream_seq > self._end:
            await self._require_end(projector, consumer)
        await self._look_at_oldest(projector, consumer)

    async def _require_end(self, projector: Projector, consumer: ConsumerInfo) -> None:
        """Have a consumer begun with anew that has delivered more than its stream has."""
        self._end = (await find_stream(self._connection, self._stream.name)).state.last_seq
        if consumer.delivered.stream_seq > self._end:
            projector.puller.begin_again("the consumer is ahead of its stream")

    async def _look_at_oldest(self, projector: Projector, consumer: ConsumerInfo) -> None:
        """Note when the oldest message that is not settled was stored, also if this process never had it in hand."""
        if not (consumer.num_pending or consumer.num_ack_pending) or not self._may_look_at_messages:
            projector.progress.oldest_ns = 0
            return
        try:
            behind = consumer.ack_floor.stream_seq + 1
            found = [
                await find_stored(self._connection, self._stream.name, behind, subject=subject)
                for subject in projector.consumer.filter_subjects or (">",)
            ]
        except PermissionDenied as exc:
            self._may_look_at_messages = False
            log.warning("stream.unseen", stream=self._stream.name, reason=str(exc))
        else:
            projector.progress.oldest_ns = min((stored.stored_ns for stored in found if stored), default=0)

    async def _look_beside(self) -> None:
        for declared in list(self._beside):
            try:
                found = await find_stream(self._connection, declared.name)
            except (StreamMissing, Refused) as exc:
                # The doctor says so, and so does the loop once it needs it.
                log.debug("stream.unseen", stream=declared.name, reason=str(exc))
            except PermissionDenied as exc:
                self._beside.remove(declared)
                log.warning("stream.unseen", stream=declared.name, reason=str(exc))
            else:
                await self._review.note(declared, found)
