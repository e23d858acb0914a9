"""The target of a simulated spool: a stream that may be unavailable, and may lose acknowledged events."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from noetl_events import EventsRejected, SinkUnavailable
from noetl_events.jetstream.streams import StreamPosition

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from noetl_events import ExecutorEvent

REJECTED: Final = "rejected"
_SHORTEST_LOSS: Final = 1.5
"""The minimal outage in seconds of a stream that loses events: longer than between two checks."""


class WatchedStream:
    """
    The stream: events by id, in the order of first arrival.

    Args:
        draw: random generator of the run.
        window: seconds for which a spool keeps acknowledged events.

    """

    def __init__(self, draw: Random, window: float) -> None:
        self.stored: dict[int, ExecutorEvent] = {}
        self.is_flaky = False
        self.is_slow = False
        self.too_old: set[int] = set()
        """The events that were lost, and noticed only after the spool's window."""

        self.draw = draw
        self.losses = 0
        self._absences = 0
        self._window = window
        self._created = 1
        self._others = 0
        self._stored_at: dict[int, float] = {}

    @property
    def is_away(self) -> bool:
        """True if no client reaches the stream."""
        return self._absences > 0

    @contextmanager
    def away(self) -> Iterator[None]:
        """Make the stream unavailable during the block; outages may overlap."""
        self._absences += 1
        yield
        self._absences -= 1

    def store(self, events: Sequence[ExecutorEvent]) -> dict[int, str]:
        """Store the valid events, and return the reasons of the rejections."""
        reasons = {}
        for place, event in enumerate(events):
            assert event.event_id is not None
            if event.event_type == REJECTED:
                reasons[place] = f"reason {event.event_id % 3}"
            elif event.event_id not in self.stored:
                self.stored[event.event_id] = event
                self._stored_at[event.event_id] = _now()
        return reasons

    def watermark(self) -> StreamPosition:
        """Return the position of the stream."""
        lost = self._stored_at.keys() - self.stored.keys()
        self.too_old |= {each for each in lost if self._stored_at[each] + self._window <= _now()}
        return StreamPosition(f"stream {self._created}", len(self.stored) + self._others)

    async def lose_end(self, seconds: float, *, most: int | None = None) -> int:
        """Be unavailable for *seconds*, and return the number of events lost then, *most* at most."""
        kept = self.draw.randint(0 if most is None else max(len(self.stored) - most, 0), len(self.stored))
        gone = list(self.stored)[kept:]
        for event_id in gone:
            del self.stored[event_id]
        await self._start_again(seconds)
        return len(gone)

    async def create_again(self, seconds: float) -> None:
        """Delete the stream, and create it again; other publishers may have filled it by then."""
        self._others += len(self.stored) + self.draw.choice([-self._others - len(self.stored), 5])
        self.stored.clear()
        self._created += 1
        await self._start_again(seconds)

    async def _start_again(self, seconds: float) -> None:
        self.losses += 1
        with self.away():
            await asyncio.sleep(_SHORTEST_LOSS + seconds)


class StreamSink:
    """
    The connection of a process to the stream.

    Args:
        stream: stream of the connection.

    """

    def __init__(self, stream: WatchedStream) -> None:
        self._stream = stream
        self.is_dead = False

    async def emit(self, event: ExecutorEvent) -> None:
        """Emit *event*."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Emit *events*, or fail: before, during, or after the write."""
        stream, draw, losses = self._stream, self._stream.draw, self._stream.losses
        try:
            await self._travel()
        except asyncio.CancelledError:
            # Events on their way may still arrive, even if the caller no longer waits.
            if draw.random() < 0.5 and not stream.is_away and losses == stream.losses:
                stream.store(events[: draw.randrange(len(events) + 1)])
            raise
        if stream.is_away or losses < stream.losses:
            raise SinkUnavailable("away", draw.choice([None, 0.1]))
        if stream.is_flaky and draw.random() < 0.3:
            stream.store(events[: draw.randrange(len(events) + 1)])
            raise SinkUnavailable("the answer was lost")
        if reasons := stream.store(events):
            raise EventsRejected(reasons)

    async def aclose(self) -> None:
        """Do nothing."""

    async def _travel(self) -> None:
        draw = self._stream.draw
        if not self.is_dead:
            await asyncio.sleep(draw.expovariate(0.3 if self._stream.is_slow else 20.0))
        if self.is_dead:
            raise asyncio.CancelledError


class WatchedSink(StreamSink):
    """A sink that reports the position of the stream."""

    async def watermark(self) -> StreamPosition:
        """Return the position, or fail as a request does."""
        losses = self._stream.losses
        await self._travel()
        is_lost = self._stream.is_flaky and self._stream.draw.random() < 0.3
        if self._stream.is_away or losses < self._stream.losses or is_lost:
            raise SinkUnavailable("no answer")
        return self._stream.watermark()


def _now() -> float:
    return asyncio.get_running_loop().time()
