"""
Choose the attempts for messages: how they are sent first, and how they are sent again.

    first attempt                      outcome                         then
    ---------------------------------  ------------------------------  ---------------------------------
    batch, fast-ingest or atomic       acknowledged                    stored
                                       stream overloaded               a pause, then batches half as long; an atomic
                                                                       one again, a fast-ingest one as below
                                       anything else                   its first message again, plainly; the rest as
                                                                       an atomic batch after those that were stored
                                       batches unsupported             plain publish, from then on
    atomic batch, again                acknowledged                    stored, whole
                                       stream overloaded               a pause, and the same batch again
                                       anything else                   plain publish, lane by lane
    plain publish                      sequence above 0                stored
                                       too large for the stream        rejected
                                       id in process, election,
                                       stream overloaded,
                                       no answer, connection lost      again, until the deadline
                                       stream full, denied, missing    the call fails: emit again, later

An id that ever had an unknown outcome never joins a fast-ingest batch again (see `batches`).  The server rejects an
atomic batch with such an id as a whole.  At most one plain publish of each lane is in flight, so no message overtakes
the one before it.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Literal

import structlog

from noetl_events.jetstream.errors import NatsUnavailable, PermissionDenied
from noetl_events.jetstream.publish import batches
from noetl_events.jetstream.publish.batches import AtomicBatch, FastBatch, Window
from noetl_events.jetstream.publish.expected_stream import ExpectedStream
from noetl_events.jetstream.publish.message import PublishCounts
from noetl_events.jetstream.publish.replies import (
    ATOMIC_UNTAKEN,
    OVERLOADED,
    BatchesUnsupported,
    BatchFailed,
    Verdict,
    explain,
    is_no_responders,
    judge,
)
from noetl_events.jetstream.publish.reply_inbox import SILENCE, ReplyInbox
from noetl_events.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from noetl_events.jetstream.client import DirectClient
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.publish.expected_stream import Trouble
    from noetl_events.jetstream.publish.message import Outgoing
    from noetl_events.jetstream.publish.queue import PublishQueue
    from noetl_events.jetstream.publish.replies import Reply

Mode = Literal["fast", "atomic", "plain"]

_QUIET: Final = 1.0
"""Seconds without an answer after which a plain publish is sent again; a late answer still counts."""

# A publish waits for these pauses, so they are short.
_PAUSES: Final = Backoff(initial=0.02, maximum=0.25)
# A publish waits for these too; they grow longer, because each retry adds a message to an overloaded stream.
_OVERLOADED_PAUSES: Final = Backoff(initial=0.05, maximum=1.0)
_MOST_SHARES: Final = 16

log = structlog.get_logger()


class Sender:
    """
    Give each message of *outbox* its outcome.

    Args:
        connection: connection to NATS; it is not closed here.
        outbox: queue of the publisher.
        timeout: seconds between queueing a message and its deadline.
        mode: kind of batches, while the stream accepts them.
        stream: name of the stream that has to acknowledge; empty to learn it.

    """

    def __init__(
        self, connection: Connection, outbox: PublishQueue, *, timeout: float, mode: Mode, stream: str
    ) -> None:
        self._outbox = outbox
        self._timeout = timeout
        self._first_patience = min(SILENCE, timeout)
        self.mode = mode
        self.counts = PublishCounts()
        self.last_sequence = 0
        """Stream sequence of the message acknowledged last."""

        self._inbox = ReplyInbox(connection, ExpectedStream(connection, stream, on_change=self._forget))
        self._inbox.patience = min(SILENCE, timeout / 2)
        self._silent_since: float | None = None
        self._why = "no answer"
        self._share = 1
        """Divisor of the longest batch; above 1 while the stream is overloaded."""
        self._pauses = _OVERLOADED_PAUSES.waits()

    async def send_all(self) -> None:
        """Send until the queue is empty and each message handed out has its outcome, or its call has failed."""
        while burst := self._outbox.next_burst(batches.BURST if self.mode == "fast" else batches.MOST):
            try:
                await self._send(burst)
            except NatsUnavailable as exc:
                for message in self._still_wanted(self._outbox.out):
                    message.fail(type(exc), str(exc))
            except BaseException:
                # Cancelled during a send, so some messages may be stored.
                self._doubt(self._outbox.out)
                raise
            self._outbox.release(self._outbox.out)

    async def aclose(self) -> None:
        """Close the inbox."""
        await self._inbox.aclose()

    async def _send(self, burst: Sequence[Outgoing]) -> None:
        if self._outbox.is_uncertain(burst[0]):
            await self._settle_again(burst, is_heard=True)
        elif self.mode == "plain" or (len(burst) == 1 and self._outbox.is_drained):
            await self._settle_window(burst)
        elif (client := await self._reach(burst)) and (burst := self._still_wanted(burst)):
            if self.mode == "atomic" and not AtomicBatch.fits(burst, client.max_payload):
                await self._settle_window(burst)
            else:
                await self._send_batch(self._new_batch(client), burst)

    def _new_batch(self, client: DirectClient) -> FastBatch | AtomicBatch:
        if self.mode == "atomic":
            return AtomicBatch(self._inbox, client, on_stored=self._store, patience=self._patience)
        return FastBatch(
            self._inbox,
            client,
            self._outbox,
            admit=self._admit,
            on_stored=self._store,
            patience=self._patience,
            longest=batches.LONGEST // self._share,
        )

    async def _send_batch(self, batch: FastBatch | AtomicBatch, burst: Sequence[Outgoing]) -> None:
        try:
            await batch.send(burst)
        except BatchesUnsupported as exc:
            self._fall_back(str(exc))
            await self._settle_window(tuple(batch.unsettled))
        except BatchFailed as exc:
            self._why = str(exc)
            if left := tuple(batch.unsettled):
                log.warning("publisher.sending_again", events=len(left), reason=str(exc))
                self._doubt(left)
                if exc.code == OVERLOADED:
                    await self._slow_down()
                if isinstance(batch, FastBatch) or not await self._settle_untaken(left, exc):
                    await self._settle_again(left, is_heard=exc.is_heard)
        else:
            self.counts.batches += 1
            self._speed_up()

    async def _slow_down(self) -> None:
        """Pause so that the stream can process its queue, and send shorter batches from now on."""
        self._share = min(self._share * 2, _MOST_SHARES)
        await asyncio.sleep(next(self._pauses))

    def _speed_up(self) -> None:
        if self._share > 1:
            self._share -= 1
            self._pauses = _OVERLOADED_PAUSES.waits()

    async def _settle_untaken(self, batch: Sequence[Outgoing], failure: BatchFailed) -> bool:
        return failure.code in ATOMIC_UNTAKEN and await self._settle_at_once(batch)

    def _admit(self, client: DirectClient, burst: list[Outgoing]) -> list[Outgoing]:
        """Return the messages of *burst* that may be sent now."""
        limit, now = client.max_payload, time.monotonic()
        if all(message.size <= limit and message.deadline > now for message in burst):
            return burst
        self._refuse_oversize(burst, limit)
        self._expire(burst, self._why)
        self._outbox.release([message for message in burst if message.is_over()])
        return self._still_wanted(burst)

    def _store(self, messages: Sequence[Outgoing], sequence: int) -> None:
        self._silent_since = None
        self._why = "no answer"
        self.last_sequence = sequence
        self.counts.stored += len(messages)
        for message in messages:
            message.store()
        self._outbox.release(messages)

    def _forget(self) -> None:
        self.last_sequence = 0

    async def _settle_window(self, batch: Sequence[Outgoing]) -> None:
        """Send all of *batch* at once as plain publishes, then send those without an outcome again."""
        if (client := await self._reach(batch)) and (batch := self._still_wanted(batch)):
            with Window(self._inbox, batch, self._store) as window:
                again = await self._attempt(window, client, batch, self._patience(batch))
                await self._settle_lanes(window, again)

    async def _settle_again(self, batch: Sequence[Outgoing], *, is_heard: bool = False) -> None:
        for start in range(0, len(batch), batches.MOST):
            if part := self._still_wanted(batch[start : start + batches.MOST]):
                with Window(self._inbox, part, self._store) as window:
                    window.is_heard = is_heard
                    await self._settle_lanes(window, part)

    async def _settle_lanes(self, window: Window, batch: Sequence[Outgoing]) -> None:
        may_go_at_once = self.mode == "fast"
        for turn, wave in enumerate(_waves(batch)):
            # A wave without a duplicate shows that no lane stored its next message either, so try an atomic batch.
            if turn and may_go_at_once and not window.has_duplicates:
                if await self._settle_at_once(batch):
                    return
                may_go_at_once = False
            window.has_duplicates = False
            await self._settle_wave(window, wave)

    async def _settle_at_once(self, batch: Sequence[Outgoing]) -> bool:
        """Send *batch* as atomic batches; return False if the outcome of one is unknown."""
        while (client := await self._reach(batch)) and (batch := self._still_wanted(batch)):
            part = batch[: max(batches.MOST // self._share, 1)]
            if not AtomicBatch.fits(part, client.max_payload):
                return False
            try:
                await AtomicBatch(self._inbox, client, on_stored=self._store, patience=_deadline).send(part)
            except BatchFailed as exc:
                if exc.code not in ATOMIC_UNTAKEN:
                    return False
                self._why = str(exc)
                await self._slow_down()
        return True

    async def _settle_wave(self, window: Window, wave: Sequence[Outgoing]) -> None:
        pauses = _PAUSES.waits()
        while (client := await self._reach(wave)) and (wave := self._still_wanted(wave)):
            # While the stream is silent, only one message is sent again, so a server that returns is not flooded.
            sent = wave if window.is_heard else wave[:1]
            again = await self._attempt(window, client, sent, _deadline(wave))
            if any(window.reply_to(message) for message in again):
                await asyncio.sleep(next(pauses))

    async def _attempt(
        self, window: Window, client: DirectClient, messages: Sequence[Outgoing], deadline: float
    ) -> list[Outgoing]:
        """Send *messages* once, and return those to send again."""
        began = time.monotonic()
        await window.send(client, messages, deadline, silence=_QUIET)
        again = [message for message in messages if not self._settle(message, window.reply_to(message), window)]
        if window.is_heard:
            self._silent_since = None
        elif again:
            self._silent_since = self._silent_since or began
            self._look_why(again[0].subject, is_untaken=is_no_responders(window.reply_to(again[0])))
        self._doubt(again)
        self._expire(again, self._why)
        return again

    def _look_why(self, subject: str, *, is_untaken: bool) -> None:
        expected, seconds = self._inbox.expected, time.monotonic() - (self._silent_since or 0.0)
        self._why = expected.explain_silence(subject, seconds, is_untaken=is_untaken)
        if seconds >= self._inbox.patience:
            expected.miss(self._silent_since or 0.0)
            self._inbox.look_up(subject)

    def _settle(self, message: Outgoing, reply: Reply | None, window: Window) -> bool:
        """Set the outcome of *message* from *reply*; return False if it has to be sent again."""
        if reply is None and _is_denied(message, window.denial):
            message.fail(PermissionDenied, window.denial)
            return True
        match judge(reply):
            case Verdict.STORED:
                # The window has already called `_store`.
                pass
            case Verdict.REFUSED:
                self.counts.refused += 1
                message.refuse(explain(reply))
            case Verdict.UNAVAILABLE:
                raise NatsUnavailable(explain(reply))
            case Verdict.AGAIN:
                self._why = window.silence if reply is None else explain(reply)
                return False
        return True

    async def _reach(self, messages: Sequence[Outgoing]) -> DirectClient | None:
        """Return a client once it is connected, or None if all of *messages* have ended."""
        pauses = _PAUSES.waits()
        while self._still_wanted(messages):
            try:
                client = await self._inbox.open()
            except NatsUnavailable as exc:
                self._expire(messages, str(exc))
            else:
                self._refuse_oversize(messages, client.max_payload)
                self._expire(messages, self._why)
                if not self._is_barred(messages):
                    return client
            await asyncio.sleep(next(pauses))
        return None

    def _is_barred(self, messages: Iterable[Outgoing]) -> bool:
        """Return True if *messages* must not be sent, because the wrong stream takes their subject."""
        trouble = self._inbox.expected.trouble
        if trouble is None or not trouble.is_barring:
            return False
        for message in self._still_wanted(messages)[:1]:
            self._inbox.look_up(message.subject)
        return True

    def _refuse_oversize(self, messages: Sequence[Outgoing], limit: int) -> None:
        # The server would close the connection for an oversize message, and lose all other messages in flight.
        for message in messages:
            if message.size > limit and not message.is_over():
                self.counts.refused += 1
                message.refuse(f"{message.size} bytes with its headers; the server takes {limit} (max_payload)")

    def _expire(self, messages: Sequence[Outgoing], reason: str) -> None:
        now, trouble = time.monotonic(), self._inbox.expected.trouble
        for message in messages:
            if trouble is not None and self._has_seen(message, trouble, now):
                why = self._inbox.expected.explain_silence(message.subject, 0.0, is_untaken=False)
                self._fail(message, trouble.error, why)
            elif message.deadline <= now:
                self._fail(message, NatsUnavailable, reason)

    def _has_seen(self, message: Outgoing, trouble: Trouble, now: float) -> bool:
        """Return True if *trouble* applies to *message*: found while it waits, as an older one may be repaired."""
        queued = message.deadline - self._timeout
        return now >= message.deadline or (trouble.found_at >= queued and now - queued >= self._inbox.patience)

    def _fail(self, message: Outgoing, kind: type[NatsUnavailable], reason: str) -> None:
        state = "unknown whether stored" if message.sent else "not sent"
        message.fail(kind, f"{state}: {reason}")

    def _still_wanted(self, messages: Iterable[Outgoing]) -> list[Outgoing]:
        return [message for message in messages if not message.is_over()]

    def _doubt(self, messages: Iterable[Outgoing]) -> None:
        doubtful = [message for message in messages if not self._outbox.is_uncertain(message)]
        self.counts.sent_again += len(doubtful)
        self._outbox.doubt(doubtful)

    def _patience(self, batch: Sequence[Outgoing]) -> float:
        """Return the deadline of a first attempt; a message that was queued for long still gets a full attempt."""
        return max(time.monotonic() + self._first_patience, _deadline(batch))

    def _fall_back(self, reason: str) -> None:
        self.mode = "plain"
        self.counts.fell_back += 1
        log.warning("publisher.fell_back", mode=self.mode, reason=reason)


def _deadline(batch: Sequence[Outgoing]) -> float:
    return min((message.deadline for message in batch), default=0.0)


def _is_denied(message: Outgoing, denial: str) -> bool:
    words = denial.lower()
    return message.subject.lower() in words or "for subscription" in words


def _waves(batch: Sequence[Outgoing]) -> list[list[Outgoing]]:
    """Return waves: the first message of each lane, then the second of each, and so on."""
    waves: list[list[Outgoing]] = []
    depth: dict[int, int] = {}
    for message in batch:
        turn = depth[message.lane] = depth.get(message.lane, -1) + 1
        if turn == len(waves):
            waves.append([])
        waves[turn].append(message)
    return waves
