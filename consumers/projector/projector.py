"""
The projector: pull, decode, write and acknowledge, until stopped.

    stored               the sink returned                     ack
    unavailable          SinkUnavailable                       hold: keep the batch, retry it, pull nothing more
    rejected             EventsRejected, or a malformed body   store a dead letter, then ack
    for another consumer a resent dead letter                  ack

There is no nak: it would redeliver a batch after its successors, and use up deliveries in an outage.  A batch that is
not acknowledged is never lost, only redelivered, and every sink accepts an event twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import structlog

from consumers.projector.crash_records import blocks_of
from consumers.projector.hold import Hold
from consumers.projector.progress import Progress
from consumers.projector.quarantine import Quarantine
from consumers.tasks import end_tasks
from consumers.tracing import batch_span
from noetl_events.jetstream.message import NoPublisher, delivery_of, event_of, recipient_of
from noetl_events.json_values import MalformedEvent
from noetl_events.retry import Backoff

if TYPE_CHECKING:
    from consumers.dead_letters import Dead, DeadLetters
    from consumers.projector.crash_records import CrashRecords, Group
    from noetl_events.envelope import ExecutorEvent
    from noetl_events.jetstream.consume.puller import Puller
    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from noetl_events.jetstream.message import Message
    from noetl_events.sink import EventSink

log = structlog.get_logger()


class Projector:
    """
    Copy events from a consumer into a sink.

    Args:
        puller: puller of the consumer.
        sink: destination of the events; the caller closes it.
        dead_letters: destination of the events that the sink rejects.
        crash_records: crash records of the messages that may have killed the process.
        batch_size: largest number of events per write.
        backoff: waits while a dependency is unavailable.
        progress: numbers to continue; new ones by default.

    """

    def __init__(
        self,
        puller: Puller,
        sink: EventSink,
        dead_letters: DeadLetters,
        crash_records: CrashRecords,
        *,
        batch_size: int = 2_000,
        backoff: Backoff | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.progress = progress or Progress()
        self._puller = puller
        self._dead_letters = dead_letters
        self._crash_records = crash_records
        self._quarantine = Quarantine(sink, crash_records, self.progress, consumer=self.consumer.name)
        self.batch_size = batch_size
        """Size of the next batch; may be changed while the projector runs."""

        self._in_flight: deque[Message] = deque()
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
        oldest = next(chain(self._in_flight, self._puller.buffered), None)
        return delivery_of(oldest).stored_ns if oldest else 0

    @property
    def in_flight(self) -> int:
        """Number of messages received and not acknowledged."""
        return len(self._in_flight) + len(self._puller.buffered)

    @property
    def unsettled(self) -> int:
        """Number of messages of the stream that are not acknowledged, received or not."""
        progress = self.progress
        # These arrived after the pending count was read, so the count still includes them.
        since = sum(delivery_of(message).sequence > progress.pending_as_of for message in self._puller.buffered)
        return max(progress.pending - since, 0) + self.in_flight

    async def run(self) -> None:
        """
        Project until `stop`, then finish the messages in flight.

        Cancel it to leave at once: messages in flight stay unacknowledged and are redelivered.

        Raises:
            ConsumerDrift: the consumer's configuration on the server forbids reading it, and did so from the start.
            StreamDrift: the stream has other partitions than declared.
            ServerTooOld: the server does not support such a consumer.
            Exception: the sink raises this error at nearly every event; nothing of the batch was acknowledged.

        """
        heartbeats = asyncio.create_task(self._heartbeats())
        try:
            while await self.step():
                self.progress.record_activity()
                if heartbeats.done():
                    heartbeats.result()
            await self._puller.flush()
        finally:
            await end_tasks([heartbeats])
            await self._puller.aclose()

    async def stop(self) -> None:
        """Stop pulling; `run` returns once every message in flight is acknowledged, at once if there is none."""
        self._is_stopping = True
        if self._pulling is not None and self._has_nothing:
            self._pulling.reschedule(asyncio.get_running_loop().time())
        else:
            self._hold.stop_soon()
        await self._puller.stop()

    async def step(self) -> bool:
        """Process the messages of one pull; return False once stopped with nothing left."""
        messages = await self._pull()
        if not messages:
            return False
        self._in_flight.extend(messages)
        # The server's pending count excludes buffered messages.
        self.progress.receive(len(messages), delivery_of((self._puller.buffered or messages)[-1]))
        for block in blocks_of(messages, in_doubt=self._puller.in_doubt):
            self.progress.redelivered += len(block.messages) * block.is_suspect
            for group in await self._hold.until_available("trials", partial(self._crash_records.split, block)):
                await self._process(group)
        return True

    async def _pull(self) -> list[Message]:
        """Return the messages of one pull, retried while NATS is unavailable; none if `stop` is called meanwhile."""
        if self._is_stopping and self._has_nothing:
            return []
        try:
            async with asyncio.timeout(None) as self._pulling:
                return await self._hold.until_available("nats", self._try_to_pull)
        except TimeoutError:
            if not (self._pulling and self._pulling.expired()):
                raise
            return []
        finally:
            self._pulling = None

    @property
    def _has_nothing(self) -> bool:
        return self._puller.is_empty and not self._in_flight

    async def _try_to_pull(self) -> list[Message]:
        await self._puller.request()
        if self._puller.is_reading:
            # The request reached the server, so NATS is available, even if no message arrives for a long time.
            self._hold.resume()
        messages = await self._puller.pull(self.batch_size)
        self.progress.passed_over = self._puller.passed_over
        return messages

    async def _process(self, group: Group) -> None:
        """Write the events of *group*, store its dead letters, and then acknowledge it."""
        with batch_span(self.consumer, group.messages) as span:
            events, sources, dead = self._decode(group.messages)
            write = partial(self._quarantine.write, group, events)
            rejected = await self._hold.until_available("sink", write)
            dead += [(sources[place], kind, reason) for place, (kind, reason) in sorted(rejected.items())]
            await self._store_dead_letters(dead)
            await self._acknowledge(group)
            stored = len(events) - len(rejected)
            self.progress.settle(stored, delivery_of(group.messages[-1]))
            span.settle(stored=stored, dead_letters=len(dead))

    def _decode(self, messages: list[Message]) -> tuple[list[ExecutorEvent], list[Message], list[Dead]]:
        """Return the events for this consumer, the message of each, and the malformed messages."""
        events: list[ExecutorEvent] = []
        sources: list[Message] = []
        dead: list[Dead] = []
        for message in messages:
            if recipient_of(message) not in ("", self.consumer.name):
                self.progress.skipped += 1
                continue
            try:
                events.append(event_of(message))
            except NoPublisher:
                self.progress.markers += 1
            except MalformedEvent as exc:
                dead.append((message, "malformed", str(exc)))
            else:
                sources.append(message)
        return events, sources, dead

    async def _store_dead_letters(self, dead: list[Dead]) -> None:
        # The dead letter is stored before its message is acknowledged.  A crash in between duplicates it; in the other
        # order it would lose it.
        if not dead:
            return
        await self._hold.until_available("dead_letters", partial(self._dead_letters.publish_all, list(dead)))
        self.progress.dead_letters_by_kind.update(kind for _, kind, _ in dead)
        log.error("projector.dead_lettered", messages=len(dead), kind=dead[0][1], reason=dead[0][2])

    async def _acknowledge(self, group: Group) -> None:
        await self._puller.ack(group.messages)
        for _ in group.messages:
            self._in_flight.popleft()
        if group.is_suspect:
            # The next group may kill the process, so the acknowledgements are sent first: this one must not be
            # redelivered with it.
            await self._puller.flush()

    async def _heartbeats(self) -> None:
        """Extend the ack wait of the messages in flight at every third of it, so that the server redelivers none."""
        while True:
            await self._puller.until_keep_alive()
            await self._puller.keep_alive(self._in_flight)
