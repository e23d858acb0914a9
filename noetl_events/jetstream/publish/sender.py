"""
Choose the attempts for messages: how they are sent first, and how they are sent again.

    attempt                            outcome                         then
    ---------------------------------  ------------------------------  ---------------------------------
    a batch, fast-ingest or atomic     acknowledged                    stored
                                       batches unsupported             plain publishes, from then on
                                       stream overloaded               a pause, then batches half as long; an atomic
                                                                       one again, a fast-ingest one as the next line
                                       anything else                   plain publishes, key by key
    plain publishes, all at once       sequence above 0                stored
    or key by key                      too large for the stream        refused
                                       id in process, election,
                                       stream overloaded,
                                       no answer, connection lost      key by key, until the deadline
                                       stream full, denied, missing    the call fails: publish again, later
    an atomic batch of the rest, when  acknowledged                    stored, whole
    the first message of each key      stream overloaded               a pause, and the same batch again
    is stored                          anything else                   plain publishes, key by key

An id that ever had an unknown outcome never joins a fast-ingest batch again (see `batches`), but may join an atomic
one, which the server refuses as a whole if one of its ids is stored or in process.  At most one plain publish of each
ordering key is in flight after a first attempt, so no message overtakes the one before it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Literal

import structlog

from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.publish import batches
from noetl_events.jetstream.publish.batches import AtomicBatch, FastBatch
from noetl_events.jetstream.publish.expected_stream import ExpectedStream
from noetl_events.jetstream.publish.message import deadline_of, unfinished
from noetl_events.jetstream.publish.outcomes import Outcomes
from noetl_events.jetstream.publish.plain import PlainPublishes
from noetl_events.jetstream.publish.replies import ATOMIC_NOT_STORED, OVERLOADED, BatchesUnsupported, BatchFailed
from noetl_events.jetstream.publish.reply_inbox import SILENCE, ReplyInbox
from noetl_events.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from noetl_events.jetstream.client import DirectClient
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.publish.message import Outgoing
    from noetl_events.jetstream.publish.queue import PublishQueue

Mode = Literal["fast", "atomic", "plain"]

# A publish waits for these pauses, so they are short.
_PAUSES: Final = Backoff(initial=0.02, maximum=0.25)
# A publish waits for these too; they grow longer, because each retry adds a message to an overloaded stream.
_OVERLOADED_PAUSES: Final = Backoff(initial=0.05, maximum=1.0)
_MAX_DIVISOR: Final = 16

log = structlog.get_logger()


class Sender:
    """
    Give each message of *queue* its outcome.

    Args:
        connection: connection to NATS; it is not closed here.
        queue: queue of the publisher.
        timeout: seconds between queueing a message and its deadline.
        mode: kind of batches, while the stream accepts them.
        stream: name of the stream that has to acknowledge; empty to learn it.

    """

    def __init__(self, connection: Connection, queue: PublishQueue, *, timeout: float, mode: Mode, stream: str) -> None:
        self.mode = mode
        expected = ExpectedStream(connection, stream, on_change=self._clear_last_sequence)
        lookup_after = min(SILENCE, timeout / 2)
        self.outcomes = Outcomes(queue, expected, timeout=timeout, lookup_after=lookup_after)

        self._queue = queue
        self._inbox = ReplyInbox(connection, expected)
        self._inbox.lookup_after = lookup_after
        self._first_timeout = min(SILENCE, timeout)
        self._divisor = 1
        """Divisor of the longest batch; above 1 while the stream is overloaded."""
        self._overloaded_pauses = _OVERLOADED_PAUSES.waits()

    async def send_all(self) -> None:
        """Send until the queue is empty and each message in flight has its outcome, or its call has failed."""
        while burst := self._queue.next_burst(batches.BURST if self.mode == "fast" else batches.MOST):
            try:
                await self._send(burst)
            except NatsUnavailable as exc:
                for message in unfinished(self._queue.in_flight):
                    message.fail(type(exc), str(exc))
            except BaseException:
                # Cancelled during a send, so some messages may be stored.
                self.outcomes.mark_uncertain(self._queue.in_flight)
                raise
            self._queue.release(self._queue.in_flight)

    async def aclose(self) -> None:
        """Close the inbox."""
        await self._inbox.aclose()

    async def _send(self, burst: list[Outgoing]) -> None:
        """Make one attempt after the other, until each message of *burst* and of its batch has an outcome."""
        left, failure = burst, None
        if self._is_for_batch(burst):
            left, failure = await self._send_batch(burst)
        if failure is not None and self.mode == "atomic" and failure.code in ATOMIC_NOT_STORED:
            left = await self._send_atomic(left)
        if left and not self._queue.is_uncertain(left[0]):
            with PlainPublishes(self._inbox, self.outcomes, left) as plain:
                if again := await self._send_at_once(plain, left):
                    await self._send_by_key(plain, again)
            return
        for start in range(0, len(left), batches.MOST):
            if part := unfinished(left[start : start + batches.MOST]):
                with PlainPublishes(self._inbox, self.outcomes, part) as plain:
                    plain.is_answering = failure is None or failure.is_answered
                    await self._send_by_key(plain, part)

    def _is_for_batch(self, burst: Sequence[Outgoing]) -> bool:
        is_lone = len(burst) == 1 and self._queue.is_drained
        # The queue never mixes ids of unknown outcome with others, so the first message speaks for all.
        return self.mode != "plain" and not is_lone and not self._queue.is_uncertain(burst[0])

    async def _send_batch(self, burst: list[Outgoing]) -> tuple[list[Outgoing], BatchFailed | None]:
        """Send *burst* and messages queued meanwhile as a batch; return those without an outcome, and the reason."""
        ready = await self._wait_for_client(burst)
        if ready is None:
            return [], None
        client, burst = ready
        if self.mode == "atomic" and not AtomicBatch.fits(burst, client.max_payload):
            return burst, None
        batch = self._new_batch(client, burst)
        try:
            sequence = await batch.send()
        except BatchesUnsupported as exc:
            self._fall_back(str(exc))
            return batch.messages, None
        except BatchFailed as exc:
            log.warning("publisher.sending_again", events=len(batch.messages), reason=str(exc))
            self.outcomes.reason = str(exc)
            self.outcomes.mark_uncertain(batch.messages)
            if exc.code == OVERLOADED:
                await self._slow_down()
            return batch.messages, exc
        self.outcomes.store(batch.messages, sequence)
        self.outcomes.counts.batches += 1
        self._speed_up()
        return [], None

    def _new_batch(self, client: DirectClient, burst: list[Outgoing]) -> FastBatch | AtomicBatch:
        if self.mode == "atomic":
            return AtomicBatch(self._inbox, client, burst, timeout=self._first_timeout)
        return FastBatch(
            self._inbox,
            client,
            burst,
            queue=self._queue,
            outcomes=self.outcomes,
            timeout=self._first_timeout,
            longest=batches.LONGEST // self._divisor,
        )

    def _fall_back(self, reason: str) -> None:
        log.warning("publisher.fell_back", mode="plain", instead_of=self.mode, reason=reason)
        self.mode = "plain"
        self.outcomes.counts.fell_back += 1

    async def _slow_down(self) -> None:
        """Pause so that the stream can process its queue, and send shorter batches from now on."""
        self._divisor = min(self._divisor * 2, _MAX_DIVISOR)
        await asyncio.sleep(next(self._overloaded_pauses))

    def _speed_up(self) -> None:
        if self._divisor > 1:
            self._divisor -= 1
            self._overloaded_pauses = _OVERLOADED_PAUSES.waits()

    async def _send_atomic(self, messages: list[Outgoing]) -> list[Outgoing]:
        """Send *messages* as atomic batches, until the outcome of one is unknown; return the messages to send again."""
        while ready := await self._wait_for_client(messages):
            client, messages = ready
            part = messages[: max(batches.MOST // self._divisor, 1)]
            if not AtomicBatch.fits(part, client.max_payload):
                break
            try:
                sequence = await AtomicBatch(self._inbox, client, part).send()
            except BatchFailed as exc:
                if exc.code not in ATOMIC_NOT_STORED:
                    break
                self.outcomes.reason = str(exc)
                await self._slow_down()
            else:
                self.outcomes.store(part, sequence)
        return unfinished(messages)

    async def _send_at_once(self, plain: PlainPublishes, messages: list[Outgoing]) -> list[Outgoing]:
        """Send all of *messages* as plain publishes at once; return the messages to send again."""
        if ready := await self._wait_for_client(messages):
            client, messages = ready
            return await plain.send(client, messages, deadline_of(messages, timeout=self._first_timeout))
        return []

    async def _send_by_key(self, plain: PlainPublishes, messages: list[Outgoing]) -> None:
        """Send *messages* as plain publishes, one of each ordering key at a time, or the later ones as a batch."""
        may_be_batch = self.mode == "fast"
        for number, wave in enumerate(_waves(messages)):
            # A wave without a duplicate shows that no key has its next message in the stream, so a batch may pass.
            if number and may_be_batch and not plain.has_duplicates:
                may_be_batch = False
                await self._send_atomic(messages)
            plain.has_duplicates = False
            await self._send_wave(plain, wave)

    async def _send_wave(self, plain: PlainPublishes, wave: list[Outgoing]) -> None:
        pauses = _PAUSES.waits()
        while ready := await self._wait_for_client(wave):
            client, wave = ready
            # While the stream is silent, only one message is sent again, so a server that returns is not flooded.
            sent = wave if plain.is_answering else wave[:1]
            again = await plain.send(client, sent, deadline_of(wave))
            if any(plain.is_answered(message) for message in again):
                await asyncio.sleep(next(pauses))

    async def _wait_for_client(self, messages: Iterable[Outgoing]) -> tuple[DirectClient, list[Outgoing]] | None:
        """Return a connected client and the *messages* to send, or None once all have expired or ended otherwise."""
        pauses = _PAUSES.waits()
        while messages := unfinished(messages):
            try:
                client = await self._inbox.open()
            except NatsUnavailable as exc:
                self.outcomes.fail_expired(messages, str(exc))
            else:
                self.outcomes.refuse_oversize(messages, client.max_payload)
                self.outcomes.fail_expired(messages)
                if not (messages := unfinished(messages)):
                    return None
                if not self._is_blocked(messages[0].subject):
                    return client, messages
            await asyncio.sleep(next(pauses))
        return None

    def _is_blocked(self, subject: str) -> bool:
        """Return True if no message may be sent, because the wrong stream takes *subject*."""
        problem = self._inbox.expected.problem
        if problem is None or not problem.blocks_publishing:
            return False
        self._inbox.look_up(subject)
        return True

    def _clear_last_sequence(self) -> None:
        self.outcomes.last_sequence = 0


def _waves(messages: Sequence[Outgoing]) -> list[list[Outgoing]]:
    """Return the first message of each ordering key, then the second of each, and so on."""
    waves: list[list[Outgoing]] = []
    depth: dict[int, int] = {}
    for message in messages:
        number = depth[message.ordering_key] = depth.get(message.ordering_key, -1) + 1
        if number == len(waves):
            waves.append([])
        waves[number].append(message)
    return waves
