"""
A monitor that looks at the streams and the consumers every ten seconds, from outside the projector's loop.

It reads how much is pending, also while the loop holds and receives nothing.  A consumer that was edited, paused or
deleted by hand interrupts its puller.  Streams whose configuration no longer serves the projector are reported once,
and again when that changes.  A stream that was created again, or lost its end in a power cut, is reported too: it
starts its sequences again.  Nothing here goes by sequence, so nothing is skipped for it; but an operator has to know.

The identity of the stream is remembered from one start of a projector to the next, in a note in the stream of trials,
under a subject of the projector's own, of which the last message is kept.  A store that is set back whole takes the
note back with it, so that the stream is recognised as the one that is remembered.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import structlog

from noetl_events.jetstream.api import server_version
from noetl_events.jetstream.consume.position import StreamEnd
from noetl_events.jetstream.consumers import show_consumer
from noetl_events.jetstream.errors import (
    ConsumerMissing,
    NatsUnavailable,
    PermissionDenied,
    Refused,
    StreamDrift,
    StreamMissing,
)
from noetl_events.jetstream.storage import find_stored, last_payload, store
from noetl_events.jetstream.stream_config import deviations
from noetl_events.jetstream.stream_identity import StreamIdentity
from noetl_events.jetstream.streams import find_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from consumers.projector.projector import Projector
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.consumers import ConsumerInfo
    from noetl_events.jetstream.declarations import ConsumerDeclaration, StreamDeclaration
    from noetl_events.jetstream.stream_config import Deviation
    from noetl_events.jetstream.streams import FoundStream

log = structlog.get_logger()


class StreamReview:
    """
    What is not as declared of several streams.

    Args:
        connection: to NATS; it stays open.

    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._found: dict[str, list[Deviation]] = {}

    @property
    def fault(self) -> str:
        """Why events may be lost, or are not stored; empty if nothing is known to be wrong."""
        return "; ".join(
            f"stream {name}: {deviation}"
            for name, found in self._found.items()
            for deviation in found
            if deviation.weight in ("refused", "unsafe")
        )

    async def note(self, declared: StreamDeclaration, found: FoundStream) -> None:
        """
        Compare a stream, as it was *found*, and tell what has changed since the last time.

        Raises:
            StreamDrift: it must not be read, and never could be since the start.
            Refused: it must not be read any more.
            NatsUnavailable: the server's version is not known now.

        """
        deviating = deviations(declared, found.config, version=await server_version(self._connection))
        before = self._found.get(declared.name)
        self._found[declared.name] = deviating
        _tell(declared.name, before or [], deviating)
        if refused := [deviation for deviation in deviating if deviation.weight == "refused"]:
            if before is None:
                raise StreamDrift(declared.name, refused)
            raise Refused(f"stream {declared.name} was changed: {'; '.join(map(str, refused))}")


def _tell(name: str, before: list[Deviation], now: list[Deviation]) -> None:
    for deviation in now:
        if deviation in before:
            continue
        words = {"stream": name, "field": deviation.field, "value": deviation.actual, "reason": deviation.meaning}
        match deviation.weight:
            case "refused" | "unsafe":
                log.error("stream.unsafe", **words)
            case "weaker" | "lacking":
                log.warning("stream.differs", **words)
            case _:
                log.info("stream.differs", **words)
    fields = {deviation.field for deviation in now}
    for deviation in before:
        if deviation.field not in fields:
            log.info("stream.as_declared", stream=name, field=deviation.field)


# A stream that stands still is noted once in a while: notes are kept as long as events.
_AGAIN: Final = 3_600.0


class IdentityNotes:
    """
    The note of one projector; its replicas share it.

    Args:
        connection: to NATS; it stays open.
        stream: the notes are kept in.
        consumer: of the projector, under whose name the note stands.

    """

    def __init__(self, connection: Connection, stream: StreamDeclaration, consumer: ConsumerDeclaration) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = f"{stream.prefix}.{consumer.stream}.{consumer.name}.identity"
        self._is_loaded = False
        self._saved = b""
        self._save_at = 0.0
        self._is_told = False

    async def load(self, identity: StreamIdentity) -> None:
        """Have *identity* remember what was noted; without a note, or where it cannot be read, nothing."""
        if self._is_loaded:
            return
        self._is_loaded = True
        try:
            payload = await last_payload(self._connection, self._stream.name, self._subject)
        except NatsUnavailable as exc:
            self._tell(exc)
        else:
            identity.load(payload or b"[]")

    async def save(self, identity: StreamIdentity) -> None:
        """Note what *identity* remembers, if it is not noted already."""
        payload = identity.dump()
        if payload == self._saved and time.monotonic() < self._save_at:
            return
        try:
            await store(self._connection, self._subject, payload, {}, stream=self._stream.name)
        except NatsUnavailable as exc:
            self._tell(exc)
        else:
            self._saved, self._save_at, self._is_told = payload, time.monotonic() + _AGAIN, False

    def _tell(self, exc: NatsUnavailable) -> None:
        if not self._is_told:
            self._is_told = True
            log.warning("stream.identity_not_noted", stream=self._stream.name, reason=str(exc))


_INTERVAL: Final = 10.0


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
