"""
The projector: pull, decode, write and acknowledge, until stopped.

    stored               the sink returned                     ack
    unavailable          SinkUnavailable                       hold: keep the batch, retry it, pull nothing more
    rejected             EventsRejected, or a malformed body   bury: store a dead letter, then ack
    for another consumer a resent dead letter                  ack

There is no nak: it would redeliver a batch after its successors, and use up deliveries in an outage.  A batch that is
not acknowledged is never lost, only redelivered, and every sink accepts an event twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Final, TypeAlias

import structlog

from consumers.projector.hold import Hold
from consumers.projector.progress import Progress
from consumers.projector.quarantine import FATAL, parts_of
from consumers.tasks import end_tasks
from consumers.tracing import batch_span
from noetl_events.jetstream.message import NoPublisher, delivery_of, event_of, recipient_of
from noetl_events.json_values import MalformedEvent
from noetl_events.retry import Backoff
from noetl_events.sink import EventsRejected, SinkUnavailable

if TYPE_CHECKING:
    from consumers.dead_letters import DeadLetters, Kind
    from consumers.projector.quarantine import CrashRecords, Group
    from noetl_events.envelope import ExecutorEvent
    from noetl_events.jetstream.consume.puller import Puller
    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from noetl_events.jetstream.message import Message
    from noetl_events.sink import EventSink

# Fewer than 10 identical rejections may be bad events; 10 or more mean that the destination is broken.
_ALIKE: Final = 10

Carried: TypeAlias = "tuple[ExecutorEvent, Message]"
Dead: TypeAlias = "tuple[Message, Kind, str]"
Refusals: TypeAlias = "dict[int, tuple[Kind, str]]"

log = structlog.get_logger()


class Projector:
    """
    Copy events from a consumer into a sink.

    Args:
        puller: puller of the consumer.
        sink: destination of the events; the caller closes it.
        dead_letters: destination of the events that the sink rejects.
        trials: crash records of the messages that may have killed the process.
        batch_size: largest number of events per write.
        backoff: waits while a dependency is unavailable.
        progress: numbers to continue; new ones by default.

    """

    def __init__(
        self,
        puller: Puller,
        sink: EventSink,
        dead_letters: DeadLetters,
        trials: CrashRecords,
        *,
        batch_size: int = 2_000,
        backoff: Backoff | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.progress = progress or Progress()
        self._puller = puller
        self._sink = sink
        self._dead_letters = dead_letters
        self._trials = trials
        self.batch_size = batch_size
        """Size of the next batch; may be changed while the projector runs."""

        self._in_hand: deque[Message] = deque()
        self._is_stopping = False
        self._pulling: asyncio.Timeout | None = None
        self._hold = Hold(self.progress, backoff or Backoff(), consumer=self.consumer.name)

    @property
    def consumer(self) -> ConsumerDeclaration:
        """The consumer that this projector reads."""
        return self._puller.consumer

    @property
    def puller(self) -> Puller:
        """The puller of that consumer."""
        return self._puller

    @property
    def oldest_ns(self) -> int:
        """Time at which the stream stored the oldest message in flight, in Unix nanoseconds; 0 with none in flight."""
        oldest = next(chain(self._in_hand, self._puller.buffered), None)
        return delivery_of(oldest).stored_ns if oldest else 0

    @property
    def in_hand(self) -> int:
        """Number of messages received and not acknowledged."""
        return len(self._in_hand) + len(self._puller.buffered)

    @property
    def unsettled(self) -> int:
        """Number of messages of the stream that are not acknowledged, received or not."""
        progress = self.progress
        # These arrived after the pending count was read, so the count still includes them.
        since = sum(delivery_of(message).sequence > progress.pending_behind for message in self._puller.buffered)
        return max(progress.pending - since, 0) + self.in_hand

    async def run(self) -> None:
        """
        Project until `stop`, then finish the messages in flight.

        Cancel it to leave at once: messages in flight stay unacknowledged and are redelivered.

        Raises:
            ConsumerDrift: the consumer's configuration on the server forbids reading it, and did so from the start.
            StreamDrift: the stream has other partitions than declared.
            ServerTooOld: the server does not support such a consumer.
            Exception: any other error of the sink is a bug of the sink; nothing of the batch was acknowledged.

        """
        heartbeats = asyncio.create_task(self._heartbeats())
        try:
            while await self.step():
                self.progress.move()
                if heartbeats.done():
                    heartbeats.result()
            await self._puller.flush()
        finally:
            await end_tasks([heartbeats])
            await self._puller.aclose()

    async def stop(self) -> None:
        """Stop pulling; `run` returns once every message in flight is acknowledged, at once if there is none."""
        self._is_stopping = True
        if self._pulling is not None and self._may_leave():
            self._pulling.reschedule(asyncio.get_running_loop().time())
        else:
            self._hold.hurry()
        await self._puller.stop()

    async def step(self) -> bool:
        """Process the messages of one pull; return False once stopped with nothing left."""
        messages = await self._pulled()
        if not messages:
            return False
        self._in_hand.extend(messages)
        # The server's pending count excludes buffered messages.
        self.progress.receive(len(messages), delivery_of((self._puller.buffered or messages)[-1]))
        for part in parts_of(messages, in_doubt=self._puller.in_doubt):
            for smaller in await self._narrowed(part):
                await self._carry(smaller)
        return True

    async def _pulled(self) -> list[Message]:
        """Return the messages of one pull, retried while NATS is unavailable; none if `stop` is called meanwhile."""
        if self._is_stopping and self._may_leave():
            return []
        try:
            async with asyncio.timeout(None) as self._pulling:
                return await self._hold.until_back("nats", self._pull)
        except TimeoutError:
            if not (self._pulling and self._pulling.expired()):
                raise
            return []
        finally:
            self._pulling = None

    def _may_leave(self) -> bool:
        return self._puller.is_empty and not self._in_hand

    async def _pull(self) -> list[Message]:
        await self._puller.ask()
        if self._puller.is_reading:
            # The request reached the server, so NATS is available, even if no message arrives for a long time.
            self._hold.resume()
        messages = await self._puller.pull(self.batch_size)
        self.progress.passed_over = self._puller.passed_over
        return messages

    async def _narrowed(self, part: Group) -> list[Group]:
        if not part.suspected:
            return [part]
        self.progress.redelivered += len(part.messages)
        return await self._hold.until_back("trials", partial(self._trials.narrow, part))

    async def _carry(self, part: Group) -> None:
        with batch_span(self.consumer, part.messages) as span:
            ours = self._ours(part.messages)
            events, dead = self._decode(ours)
            markers = len(ours) - len(events) - len(dead)
            dead += await self._write(events, part)
            await self._bury(dead)
            await self._settle(part, len(ours) - len(dead) - markers)
            self.progress.markers += markers
            span.settle(stored=len(ours) - len(dead) - markers, buried=len(dead))

    def _ours(self, messages: list[Message]) -> list[Message]:
        """Return *messages* without those addressed to another consumer."""
        ours = [message for message in messages if recipient_of(message) in ("", self.consumer.name)]
        self.progress.skipped += len(messages) - len(ours)
        return ours

    def _decode(self, messages: list[Message]) -> tuple[list[Carried], list[Dead]]:
        events: list[Carried] = []
        dead: list[Dead] = []
        for message in messages:
            try:
                events.append((event_of(message), message))
            except NoPublisher:
                # The message is acknowledged with its batch.
                continue
            except MalformedEvent as exc:
                dead.append((message, "malformed", str(exc)))
        return events, dead

    async def _write(self, events: list[Carried], part: Group) -> list[Dead]:
        if not events:
            return []
        if part.is_fatal:
            return [(message, "fatal", FATAL) for _, message in events]
        emit = partial(self._emit, [event for event, _ in events])
        refused = await self._hold.until_back("sink", partial(self._trials.write, part, emit))
        return [(events[place][1], kind, reason) for place, (kind, reason) in sorted(refused.items())]

    async def _emit(self, batch: list[ExecutorEvent]) -> Refusals:
        began = time.monotonic()
        refused: Refusals = {}
        try:
            await self._sink.emit_batch(batch)
        except EventsRejected as exc:
            _require_some_taken(batch, exc)
            refused = {
                place: ("conflict" if place in exc.conflicts else "rejected", reason)
                for place, reason in exc.reasons.items()
            }
        self.progress.write(len(batch), time.monotonic() - began)
        return refused

    async def _bury(self, dead: list[Dead]) -> None:
        # The dead letter is stored before its message is acknowledged.  A crash in between duplicates it; in the other
        # order it would lose it.
        for message, kind, reason in dead:
            await self._hold.until_back("dead_letters", partial(self._dead_letters.bury, message, kind, reason))
        if dead:
            self.progress.buried_by.update(kind for _, kind, _ in dead)
            log.error("projector.buried", messages=len(dead), kind=dead[0][1], reason=dead[0][2])

    async def _settle(self, part: Group, stored: int) -> None:
        await self._puller.ack(part.messages)
        for _ in part.messages:
            self._in_hand.popleft()
        self.progress.settle(stored, delivery_of(part.messages[-1]))
        if part.suspected:
            # The next part may kill the process, so the acknowledgements are sent first: this part must not be
            # redelivered with it.
            await self._puller.flush()

    async def _heartbeats(self) -> None:
        """Extend the ack wait of the messages in flight at every third of it, so that the server redelivers none."""
        while True:
            await self._puller.until_keep_alive()
            await self._puller.keep_alive(self._in_hand)


def _require_some_taken(batch: list[ExecutorEvent], rejection: EventsRejected) -> None:
    """
    Raise if the sink rejects a whole batch and most of it for one reason: then the destination is at fault.

    Each of several destinations is judged by its own answer only.  Conflicts do not count as a common reason, because
    each names another event that the destination has.
    """
    for part in rejection.parts:
        reasons = [reason for place, reason in part.reasons.items() if place not in part.conflicts]
        reason, times = max(Counter(reasons).items(), key=lambda counted: counted[1], default=("", 0))
        if len(part.reasons) == len(batch) and times >= _ALIKE:
            raise SinkUnavailable(
                f"the destination rejects all of {len(batch)} events, {times} of them for one reason, so none becomes "
                f"a dead letter: {reason}; repair the destination, or make dead letters with batches below {_ALIKE}"
            )
