"""
Backfill: copy events from a file, a recording or the past of a stream into a sink, in batches, at a given speed.

The copy retries while the sink is unavailable.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import structlog

from noetl_events.jetstream.message import NoPublisher, delivery_of, event_of
from noetl_events.json_values import MalformedEvent
from noetl_events.retry import Backoff, Retry
from noetl_events.sink import EventsRejected, SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.jetstream.consume.history import History
    from noetl_events.jetstream.message import Message
    from noetl_events.sink import EventSink

FULL: Final = math.inf


async def paced(
    events: Iterable[ExecutorEvent],
    *,
    speed: float,
    size: int,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncGenerator[list[ExecutorEvent], None]:
    """
    Yield *events* in their order, in batches of events that are due, *size* at most.

    An event is due when the time since the first event, divided by *speed*, has passed.  An event that is older than
    its predecessor is due at once, as are all events that an unavailable destination has delayed.
    """
    start, origin = now(), None
    due: list[ExecutorEvent] = []
    for event in events:
        origin = origin or event.created_at
        wait = (event.created_at - origin).total_seconds() / speed - (now() - start)
        if due and (len(due) == size or wait > 0):
            yield due
            due = []
            wait = (event.created_at - origin).total_seconds() / speed - (now() - start)
        if wait > 0:
            await sleep(wait)
        due.append(event)
    if due:
        yield due


def read_speed(value: str) -> float:
    """
    Return the speed in *value*, as a multiple of the original one: `1x`, `0.5x`, `10x` or `max`.

    Raises:
        ValueError: the text is no speed.

    """
    if value == "max":
        return FULL
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)x", value)
    if match is None or not float(match[1]):
        raise ValueError(f"--speed: {value!r} is neither `max` nor a factor such as `1x` or `10x`")
    return float(match[1])


_WAITS: Final = Backoff(maximum=5.0)

log = structlog.get_logger()


class Copied(msgspec.Struct, kw_only=True):
    """The numbers of stored and rejected events."""

    stored: int = 0
    rejected: int = 0


async def copy_events(
    events: Iterator[ExecutorEvent],
    sink: EventSink,
    *,
    patience: float,
    batch_size: int = 500,
    speed: float = FULL,
    on_batch: Callable[[int], None] = lambda _: None,
) -> Copied:
    """
    Emit all *events* and return how many were stored and rejected; each rejection is logged with its reason.

    With *speed* they are emitted at that multiple of their original speed, by their `created_at`.

    Raises:
        SinkUnavailable: the sink was unavailable for *patience* seconds; everything before this batch is stored.

    """
    copied = Copied()
    async with aclosing(paced(events, speed=speed, size=batch_size)) as batches:
        async for batch in batches:
            reasons = await emit_patiently(batch, sink, patience=patience)
            for place, reason in sorted(reasons.items()):
                log.error("event.rejected", event_id=batch[place].event_id, reason=reason)
            copied.rejected += len(reasons)
            copied.stored += len(batch) - len(reasons)
            on_batch(len(batch))
    return copied


class Rejections(dict[int, str]):
    """The reasons of the rejected events of a batch, by batch index; `conflicts` has the indexes of conflicts."""

    conflicts: frozenset[int] = frozenset()


async def emit_patiently(
    batch: Sequence[ExecutorEvent], sink: EventSink, *, patience: float, overrun: float = math.inf
) -> Rejections:
    """
    Emit *batch*, retrying while the sink is unavailable, and return the reasons of the rejected events by batch index.

    A retry is cancelled *overrun* seconds after the end of *patience*.

    Raises:
        SinkUnavailable: the sink was unavailable for *patience* seconds.

    """
    rejections, error = Rejections(), None
    end = asyncio.get_running_loop().time() + patience + overrun
    async for attempt in Retry(SinkUnavailable, backoff=_WAITS, patience=patience, log="sink", events=len(batch)):
        with attempt:
            try:
                async with asyncio.timeout_at(None if error is None or math.isinf(end) else end) as limit:
                    await sink.emit_batch(batch)
            except SinkUnavailable as exc:
                error = exc
                raise
            except TimeoutError:
                if error is None or not limit.expired():
                    raise
                raise error from None
            except EventsRejected as exc:
                rejections = Rejections(exc.reasons)
                rejections.conflicts = exc.conflicts
    return rejections


MAX_FAULTS: Final = 1_000


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was not stored at the destination, with the reason."""

    sequence: int
    kind: Literal["malformed", "rejected", "conflict"]
    reason: str


class Rebuilt(msgspec.Struct, kw_only=True):
    """
    The result for the messages up to *last_sequence*.

    `conflicts` counts events with a key that a different event has at the destination.  `faults` lists the first
    `MAX_FAULTS` messages that were not stored, as does the log.
    """

    stored: int = 0
    rejected: int = 0
    conflicts: int = 0
    malformed: int = 0
    last_sequence: int = 0
    faults: list[Fault] = []


class Rebuild:
    """
    Emit the events of *history*, in its order and batch by batch.

    No dead letters are stored, because the projector of this stream has stored them already.  Running it twice stores
    nothing twice.

    Args:
        history: past of the stream; the caller closes it.
        sink: destination of the events; the caller closes it.
        execution: execution to select; None for all.
        patience: seconds to retry while the sink is unavailable.
        batch_size: maximum number of events per write.
        on_batch: callback with the number of messages of each completed batch.

    """

    def __init__(
        self,
        history: History,
        sink: EventSink,
        *,
        execution: int | None = None,
        patience: float = 60.0,
        batch_size: int = 2_000,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.done = Rebuilt()
        """The result so far: everything up to `last_sequence` is completed."""

        self._history = history
        self._sink = sink
        self._execution = execution
        self._patience = patience
        self._batch_size = batch_size
        self._on_batch = on_batch

    async def run(self) -> Rebuilt:
        """
        Return the result for the whole history.

        Raises:
            SinkUnavailable: the sink was unavailable for *patience* seconds.
            NatsUnavailable: the stream could not be read for the patience of the history.
            StreamReplaced: the stream was recreated meanwhile.

        """
        while messages := await self._history.read(self._batch_size):
            await self._write(messages)
            self.done.last_sequence = self._history.position
            self._on_batch(len(messages))
        return self.done

    async def _write(self, messages: Sequence[Message]) -> None:
        events = self._decode(messages)
        batch = [event for event, _ in events]
        reasons = await emit_patiently(batch, self._sink, patience=self._patience) if batch else Rejections()
        for place, reason in sorted(reasons.items()):
            self._record_fault(events[place][1], "conflict" if place in reasons.conflicts else "rejected", reason)
        self.done.rejected += len(reasons) - len(reasons.conflicts)
        self.done.conflicts += len(reasons.conflicts)
        self.done.stored += len(batch) - len(reasons)

    def _decode(self, messages: Sequence[Message]) -> list[tuple[ExecutorEvent, Message]]:
        events = []
        for message in messages:
            try:
                event = event_of(message)
            except NoPublisher:
                continue
            except MalformedEvent as exc:
                if self._may_be_wanted(message):
                    self.done.malformed += 1
                    self._record_fault(message, "malformed", str(exc))
            else:
                if self._execution is None or event.execution_id == self._execution:
                    events.append((event, message))
        return events

    def _may_be_wanted(self, message: Message) -> bool:
        # The execution of a malformed event cannot be read, so a text search for the id decides.
        return self._execution is None or str(self._execution).encode() in message.data

    def _record_fault(self, message: Message, kind: Literal["malformed", "rejected", "conflict"], reason: str) -> None:
        if len(self.done.faults) < MAX_FAULTS:
            fault = Fault(sequence=delivery_of(message).sequence, kind=kind, reason=reason)
            self.done.faults.append(fault)
            log.error("event.not_copied", kind=kind, sequence=fault.sequence, reason=reason)
