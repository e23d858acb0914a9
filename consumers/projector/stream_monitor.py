"""
A monitor that checks the streams and the consumers every ten seconds, outside the projector's loop.

The monitor reads the pending count, also while the loop holds and receives nothing.  A consumer that was edited, paused
or deleted by hand interrupts its puller.  Drift in the configuration of a stream is reported once, and again when it
changes.  A stream that was recreated, or lost its end in a power cut, is reported too, because it reuses sequences.  No
message is skipped by its sequence, so none is lost by that, but an operator has to know.

The identity of the stream survives a restart of the projector, in a record in the trials stream under a subject of its
own, which keeps the last message only.  Restoring a backup of the whole store restores the record with it, so the
stream is recognised.
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
    The configuration drift of several streams.

    Args:
        connection: connection to NATS; the caller closes it.

    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._found: dict[str, list[Deviation]] = {}

    @property
    def fault(self) -> str:
        """Reason why events may be lost or are not stored; empty if none is known."""
        return "; ".join(
            f"stream {name}: {deviation}"
            for name, found in self._found.items()
            for deviation in found
            if deviation.weight in ("refused", "unsafe")
        )

    async def compare(self, declared: StreamDeclaration, found: FoundStream) -> None:
        """
        Compare the stream that was *found* with *declared*, and log the changes since the last call.

        Raises:
            StreamDrift: the configuration forbids reading the stream, and did so at the first call.
            Refused: the configuration forbids reading the stream since it was changed.
            NatsUnavailable: the server's version is not known now.

        """
        deviating = deviations(declared, found.config, version=await server_version(self._connection))
        before = self._found.get(declared.name)
        self._found[declared.name] = deviating
        _log_changes(declared.name, before or [], deviating)
        if refused := [deviation for deviation in deviating if deviation.weight == "refused"]:
            if before is None:
                raise StreamDrift(declared.name, refused)
            raise Refused(f"stream {declared.name} was changed: {'; '.join(map(str, refused))}")


def _log_changes(name: str, before: list[Deviation], now: list[Deviation]) -> None:
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


# Records expire with the events, so the record of an idle stream is stored again at this interval, in seconds.
_AGAIN: Final = 3_600.0


class IdentityRecord:
    """
    The stored identity record of one projector, which its replicas share.

    Args:
        connection: connection to NATS; the caller closes it.
        stream: stream that stores the records.
        consumer: consumer of the projector; part of the record's subject.

    """

    def __init__(self, connection: Connection, stream: StreamDeclaration, consumer: ConsumerDeclaration) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = f"{stream.prefix}.{consumer.stream}.{consumer.name}.identity"
        self._is_loaded = False
        self._saved = b""
        self._save_at = 0.0
        self._is_failing = False

    async def load(self, identity: StreamIdentity) -> None:
        """Load the stored record into *identity*, once; without a readable record *identity* stays empty."""
        if self._is_loaded:
            return
        self._is_loaded = True
        try:
            payload = await last_payload(self._connection, self._stream.name, self._subject)
        except NatsUnavailable as exc:
            self._log_failure(exc)
        else:
            identity.load(payload or b"[]")

    async def save(self, identity: StreamIdentity) -> None:
        """Store *identity*, unless the same was stored recently."""
        payload = identity.dump()
        if payload == self._saved and time.monotonic() < self._save_at:
            return
        try:
            await store(self._connection, self._subject, payload, {}, stream=self._stream.name)
        except NatsUnavailable as exc:
            self._log_failure(exc)
        else:
            self._saved, self._save_at, self._is_failing = payload, time.monotonic() + _AGAIN, False

    def _log_failure(self, exc: NatsUnavailable) -> None:
        if not self._is_failing:
            self._is_failing = True
            log.warning("stream.identity_not_saved", stream=self._stream.name, reason=str(exc))


_INTERVAL: Final = 10.0


class StreamMonitor:
    """
    Monitor the streams of a projector and the consumers that it reads.

    Args:
        connection: connection to NATS; the caller closes it.
        stream: stream of the events.
        projectors: function that returns the running projectors; the monitor updates their `progress`.
        identity_record: storage of the stream's identity for the next start.
        written: streams that a projector writes to.
        interval: seconds between two checks.

    """

    def __init__(
        self,
        connection: Connection,
        stream: StreamDeclaration,
        projectors: Callable[[], Iterable[Projector]],
        *,
        identity_record: IdentityRecord | None = None,
        written: Iterable[StreamDeclaration] = (),
        interval: float = _INTERVAL,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._identity = StreamIdentity(connection, stream.name)
        self._identity_record = identity_record
        self._review = StreamReview(connection)
        self._written = list(written)
        self._projectors = projectors
        self._interval = interval
        self._checking = asyncio.Lock()
        self._checks = 0
        self._may_read_stream = True
        self._may_read_messages = True
        self._end = 0
        self._replaced: list[int] = []
        self._reported: dict[str, int] = {}

    @property
    def identity_changes(self) -> int:
        """Number of times that the stream was recreated, restored, or shortened."""
        return len(self._replaced)

    @property
    def fault(self) -> str:
        """Reason why events may be lost or are not stored; empty if none is known."""
        return self._review.fault

    async def run(self) -> None:
        """Monitor until cancelled."""
        while True:
            await self._check_all()
            await asyncio.sleep(self._interval)

    async def check(self, consumer: str = "") -> StreamEnd | None:
        """
        Check the stream before *consumer* is read; concurrent callers share one request.

        Returns:
            The end of the stream, and the sequence from which *consumer* must be read again; None if permissions forbid
            the check.

        Raises:
            StreamDrift: the configuration forbids reading the stream, and did so from the start.
            NatsUnavailable: the stream cannot be checked now, or must not be read any more.

        """
        checks = self._checks
        async with self._checking:
            if checks == self._checks and self._may_read_stream:
                await self._check_stream()
        if not self._may_read_stream:
            return None
        unknown = self._replaced[self._reported.get(consumer, 0) :]
        self._reported[consumer] = len(self._replaced)
        return StreamEnd(self._end, min(unknown) if unknown else None)

    async def _check_all(self) -> None:
        for check in (self.check, self._check_consumers, self._check_written):
            try:
                await check()
            except NatsUnavailable as exc:
                # The projector's loop reports an outage itself, so this is logged for debugging only.
                log.debug("stream.unchecked", reason=str(exc))

    async def _check_stream(self) -> None:
        try:
            found = await find_stream(self._connection, self._stream.name)
        except PermissionDenied as exc:
            # Permissions of an older version lack this right, so read on and do not ask again.
            self._may_read_stream = False
            log.warning("stream.unchecked", stream=self._stream.name, reason=str(exc))
            return
        await self._compare(found)
        await self._review.compare(self._stream, found)
        self._checks += 1

    async def _compare(self, found: FoundStream) -> None:
        if self._identity_record is not None:
            await self._identity_record.load(self._identity)
        replaced = await self._identity.compare(found)
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
                projector.puller.restart("the stream was replaced, or lost its end")
        if self._identity_record is not None:
            await self._identity_record.save(self._identity)

    async def _check_consumers(self) -> None:
        for projector in self._projectors():
            await self._check_consumer(projector)

    async def _check_consumer(self, projector: Projector) -> None:
        try:
            consumer = await show_consumer(self._connection, projector.consumer)
        except ConsumerMissing:
            projector.puller.check(None)
            return
        projector.progress.set_pending(consumer.num_pending, as_of=consumer.delivered.stream_seq)
        projector.puller.check(consumer, end=self._end)
        if consumer.delivered.stream_seq > self._end:
            await self._require_within_stream(projector, consumer)
        await self._read_oldest(projector, consumer)

    async def _require_within_stream(self, projector: Projector, consumer: ConsumerInfo) -> None:
        """Restart a consumer that has delivered a sequence beyond the end of its stream."""
        self._end = (await find_stream(self._connection, self._stream.name)).state.last_seq
        if consumer.delivered.stream_seq > self._end:
            projector.puller.restart("the consumer is ahead of its stream")

    async def _read_oldest(self, projector: Projector, consumer: ConsumerInfo) -> None:
        """Record the store time of the oldest message that is not acknowledged, even if another process holds it."""
        if not (consumer.num_pending or consumer.num_ack_pending) or not self._may_read_messages:
            projector.progress.oldest_ns = 0
            return
        try:
            behind = consumer.ack_floor.stream_seq + 1
            found = [
                await find_stored(self._connection, self._stream.name, behind, subject=subject)
                for subject in projector.consumer.filter_subjects or (">",)
            ]
        except PermissionDenied as exc:
            self._may_read_messages = False
            log.warning("stream.unchecked", stream=self._stream.name, reason=str(exc))
        else:
            projector.progress.oldest_ns = min((stored.stored_ns for stored in found if stored), default=0)

    async def _check_written(self) -> None:
        for declared in list(self._written):
            try:
                found = await find_stream(self._connection, declared.name)
            except (StreamMissing, Refused) as exc:
                # Doctor reports this, and the projector's loop does once it needs the stream, so this is for debugging
                # only.
                log.debug("stream.unchecked", stream=declared.name, reason=str(exc))
            except PermissionDenied as exc:
                self._written.remove(declared)
                log.warning("stream.unchecked", stream=declared.name, reason=str(exc))
            else:
                await self._review.compare(declared, found)
