"""
The projector: pull, decode, write, settle, until stopped.

    stored        the sink returned                     ack
    unavailable   SinkUnavailable                       hold: keep the batch in hand, write it again, pull nothing more
    rejected      EventsRejected, or a malformed body   bury: store a dead letter, then ack

There is no nak: it would bring a batch back after its successors, and burn deliveries in an outage.  Until a batch is
acknowledged nothing of it is lost, only delivered again, and every sink takes an event twice.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import msgspec
import structlog

from noetl_events.backoff import Backoff
from noetl_events.jetstream.delivery import delivery_of, event_of
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.json_values import MalformedEvent
from noetl_events.sink import EventsRejected, SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from consumers.dead_letters import DeadLetters, Kind
    from noetl_events.envelope import ExecutorEvent
    from noetl_events.jetstream.delivery import Message
    from noetl_events.jetstream.puller import Puller
    from noetl_events.sink import EventSink

_REMIND_AFTER: Final = 60.0
_STOPPING_WAIT: Final = 1.0

T = TypeVar("T")
Carried: TypeAlias = "tuple[ExecutorEvent, Message]"
Dead: TypeAlias = "tuple[Message, Kind, str]"

log = structlog.get_logger()


class Progress(msgspec.Struct, kw_only=True):
    """What a projector has done since it started."""

    received: int = 0
    stored: int = 0
    buried: int = 0
    pending: int = 0
    """Messages in the stream behind the last one received."""
    held_seconds: float = 0.0


class Projector:
    """
    Carry events from a consumer into a sink.

    Args:
        puller: of the consumer.
        sink: takes the events; it stays open.
        dead_letters: takes what the sink never will.
        batch_size: events written at once, at most.
        backoff: the waits while something is away.

    """

    def __init__(
        self,
        puller: Puller,
        sink: EventSink,
        dead_letters: DeadLetters,
        *,
        batch_size: int = 2_000,
        backoff: Backoff | None = None,
    ) -> None:
        self.progress = Progress()
        self._puller = puller
        self._sink = sink
        self._dead_letters = dead_letters
        self._batch_size = batch_size
        self._backoff = backoff or Backoff()
        self._in_hand: list[Message] = []
        self._stopping = asyncio.Event()

    @property
    def in_hand(self) -> int:
        """Messages received and not settled."""
        return len(self._in_hand) + len(self._puller.buffered)

    async def run(self) -> None:
        """
        Project until `stop`, then finish what is in hand.

        Cancel it to leave at once: what is in hand stays unacknowledged and is delivered again.

        Raises:
            TopologyDrift: the consumer on the server is not the one declared.
            Exception: whatever else escapes the sink is a bug of the sink; nothing of the batch was acknowledged.

        """
        heartbeats = asyncio.create_task(self._heartbeats())
        try:
            while await self.step():
                pass
            await self._puller.flush()
        finally:
            heartbeats.cancel()
            await asyncio.wait({heartbeats})
            await self._puller.aclose()

    async def stop(self) -> None:
        """Pull nothing more; `run` returns once everything in hand is settled."""
        self._stopping.set()
        await self._puller.stop()

    async def step(self) -> bool:
        """Carry one batch; return False once stopped and nothing is left."""
        self._in_hand = await self._hold("nats", lambda: self._puller.pull(self._batch_size))
        if not self._in_hand:
            return False
        self.progress.received += len(self._in_hand)
        self.progress.pending = delivery_of(self._in_hand[-1]).pending
        events, dead = self._decode(self._in_hand)
        dead += await self._write(events)
        await self._bury(dead)
        await self._settle(len(self._in_hand) - len(dead))
        return True

    def _decode(self, messages: list[Message]) -> tuple[list[Carried], list[Dead]]:
        events: list[Carried] = []
        dead: list[Dead] = []
        for message in messages:
            try:
                events.append((event_of(message), message))
            except MalformedEvent as exc:
                dead.append((message, "malformed", str(exc)))
        return events, dead

    async def _write(self, events: list[Carried]) -> list[Dead]:
        batch = [event for event, _ in events]
        reasons = await self._hold("sink", lambda: self._emit(batch)) if batch else {}
        return [
            (message, "rejected", reasons[event.event_id])
            for event, message in events
            if event.event_id is not None and event.event_id in reasons
        ]

    async def _emit(self, batch: list[ExecutorEvent]) -> dict[int, str]:
        try:
            await self._sink.emit_batch(batch)
        except EventsRejected as exc:
            return exc.reasons
        return {}

    async def _bury(self, dead: list[Dead]) -> None:
        # The dead letter is stored before its message is acknowledged: a crash in between leaves it twice, the other
        # order would leave nothing.
        for message, kind, reason in dead:
            await self._hold("dead_letters", partial(self._dead_letters.bury, message, kind, reason))
        if dead:
            self.progress.buried += len(dead)
            log.error("projector.buried", messages=len(dead), kind=dead[0][1], reason=dead[0][2])

    async def _settle(self, stored: int) -> None:
        await self._puller.ack(self._in_hand)
        self.progress.stored += stored
        log.debug("projector.settled", messages=len(self._in_hand), pending=self.progress.pending)
        self._in_hand = []

    async def _hold(self, part: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return what *attempt* returns, trying again while *part* is away."""
        began, reminded = 0.0, 0.0
        for wait in self._backoff.waits():
            try:
                result = await attempt()
            except (SinkUnavailable, NatsUnavailable) as exc:
                now = time.monotonic()
                began = began or now
                if now - reminded >= _REMIND_AFTER or not reminded:
                    reminded = now
                    log.warning("projector.holding", part=part, messages=self.in_hand, reason=str(exc))
                await self._pause(getattr(exc, "retry_after", None) or wait)
            else:
                if began:
                    self.progress.held_seconds += time.monotonic() - began
                    log.info("projector.resumed", part=part, seconds=round(time.monotonic() - began, 3))
                return result
        raise AssertionError("the waits never end")

    async def _pause(self, seconds: float) -> None:
        # Somebody waits for us to stop: try again soon, whatever the back-off says.
        if self._stopping.is_set():
            await asyncio.sleep(min(seconds, _STOPPING_WAIT))
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _heartbeats(self) -> None:
        """Keep the server from delivering again what is in hand: every third of the consumer's own ack wait."""
        while True:
            await asyncio.sleep(self._puller.consumer.ack_wait / 3)
            await self._puller.in_progress([*self._in_hand, *self._puller.buffered])
