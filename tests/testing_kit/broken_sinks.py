"""A sink that keeps every promise of the contract, and for each promise one or more that break it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec import structs

from noetl_events import EventsRejected, MalformedEvent, decode, encode
from noetl_events.conflicts import Likeness, compare
from noetl_events.sink import require_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events import ExecutorEvent


class GoodSink:
    """A sink that keeps every promise, cut into the steps that those below get wrong."""

    def __init__(self, destination: list[bytes]) -> None:
        self.destination = destination
        self.closed = False

    async def emit(self, event: ExecutorEvent) -> None:
        """Store *event*."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store *events* in four steps: refuse, encode, write, compare."""
        self._refuse(events)
        bodies, reasons = self._encode(events)
        await self._write(bodies)
        conflicts = self._conflicts({place: event for place, event in enumerate(events) if place not in reasons})
        if reasons or conflicts:
            raise EventsRejected(reasons | conflicts, conflicts=conflicts)

    async def aclose(self) -> None:
        """Refuse what comes later."""
        self.closed = True

    def _refuse(self, events: Sequence[ExecutorEvent]) -> None:
        """Raise where nothing may be stored."""
        if self.closed:
            raise RuntimeError("closed")
        require_ids(events)

    def _encode(self, events: Sequence[ExecutorEvent]) -> tuple[list[bytes], dict[int, str]]:
        """Return what is to be written, and what never will be."""
        bodies, reasons = [], {}
        for place, event in enumerate(events):
            try:
                bodies.append(encode(event))
            except MalformedEvent as exc:
                reasons[place] = str(exc)
        return bodies, reasons

    async def _write(self, bodies: Sequence[bytes]) -> None:
        """Write what is not there."""
        for body in bodies:
            if not self._has(body):
                self.destination.append(body)

    def _has(self, body: bytes) -> bool:
        """Return whether an event with the key of that in *body* is at the destination."""
        return self._stored(decode(body)) is not None

    def _stored(self, event: ExecutorEvent) -> ExecutorEvent | None:
        """Return the event at the destination that has the key of *event*."""
        return next((stored for stored in map(decode, self.destination) if key(stored) == key(event)), None)

    def _conflicts(self, events: dict[int, ExecutorEvent]) -> dict[int, str]:
        """Return the reasons of those that are different events than the ones with their keys."""
        found = {place: (self._stored(event), event) for place, event in events.items()}
        return {
            place: compare(stored, event).reason
            for place, (stored, event) in found.items()
            if stored is not None and compare(stored, event).likeness is Likeness.CONFLICT
        }


def key(event: ExecutorEvent) -> tuple[int, int | None]:
    """Return what an event is known by."""
    return event.execution_id, event.event_id


class GoodLog(GoodSink):
    """A sink without a key, which keeps every promise of one: it keeps each event it is given once."""

    def _has(self, body: bytes) -> bool:
        return body in self.destination

    def _conflicts(self, events: dict[int, ExecutorEvent]) -> dict[int, str]:
        """Reject none."""
        return {}


class NoBatches:
    """Has no `emit_batch`."""

    def __init__(self, destination: list[bytes]) -> None:
        self.destination = destination

    async def emit(self, event: ExecutorEvent) -> None:
        """Store *event*."""
        self.destination.append(encode(event))

    async def aclose(self) -> None:
        """Do nothing."""


class StoresLater(GoodSink):
    """Returns from `emit` before the event is stored."""

    async def emit(self, event: ExecutorEvent) -> None:
        """Leave *event* to a task."""
        self.task = asyncio.ensure_future(self.emit_batch([event]))


class DropsLast(GoodSink):
    """Leaves the last event of a batch in a buffer."""

    async def _write(self, bodies: Sequence[bytes]) -> None:
        await super()._write(bodies[:-1])


class LosesOrder(GoodSink):
    """Writes a batch back to front."""

    async def _write(self, bodies: Sequence[bytes]) -> None:
        await super()._write(bodies[::-1])


class NeedsOne(GoodSink):
    """Cannot handle a batch without events."""

    def _refuse(self, events: Sequence[ExecutorEvent]) -> None:
        super()._refuse(events)
        assert events


class KeepsDoubles(GoodSink):
    """Writes what it is given, as often as it is given."""

    def _has(self, body: bytes) -> bool:
        return False


class LooksOncePerBatch(GoodSink):
    """Looks at the destination before a batch, and not at the batch itself."""

    async def _write(self, bodies: Sequence[bytes]) -> None:
        self.destination += [body for body in bodies if not self._has(body)]


class ForgetsOnReopen(GoodSink):
    """Knows only of what it stored itself."""

    def __init__(self, destination: list[bytes]) -> None:
        super().__init__(destination)
        self.before = len(destination)

    def _has(self, body: bytes) -> bool:
        return key(decode(body)) in {key(decode(stored)) for stored in self.destination[self.before :]}


class LosesField(GoodSink):
    """Has no column for `meta`."""

    def _encode(self, events: Sequence[ExecutorEvent]) -> tuple[list[bytes], dict[int, str]]:
        return super()._encode([structs.replace(event, meta=None) for event in events])


class RejectsWholeBatch(GoodSink):
    """Rejects the innocent with the guilty, naming only the guilty."""

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store nothing if one event cannot be."""
        self._refuse(events)
        bodies, reasons = self._encode(events)
        if reasons:
            raise EventsRejected(reasons)
        await self._write(bodies)


class BlamesAll(GoodSink):
    """Stores what it can, and then rejects the whole batch."""

    def _encode(self, events: Sequence[ExecutorEvent]) -> tuple[list[bytes], dict[int, str]]:
        bodies, reasons = super()._encode(events)
        return bodies, dict.fromkeys(range(len(events)), str(reasons)) if reasons else {}


class IgnoresRejected(GoodSink):
    """Drops what it cannot store, and says nothing."""

    def _encode(self, events: Sequence[ExecutorEvent]) -> tuple[list[bytes], dict[int, str]]:
        return super()._encode(events)[0], {}


class StoresBeforeItRefuses(GoodSink):
    """Finds out that an id is missing when the events before it are stored."""

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store one event after the other."""
        for event in events:
            await super().emit_batch([event])


class StoresWithoutId(GoodSink):
    """Takes an event that nobody can know again."""

    def _refuse(self, events: Sequence[ExecutorEvent]) -> None:
        """Refuse nothing for want of an id."""


class Coalescing(GoodSink):
    """Makes one batch of concurrent emits, as a sink may, and tells every emitter of it the same, as none may."""

    def __init__(self, destination: list[bytes]) -> None:
        super().__init__(destination)
        self.waiting: list[ExecutorEvent] = []
        self.batch: asyncio.Task[None] | None = None

    async def emit(self, event: ExecutorEvent) -> None:
        """Wait for the batch *event* is part of."""
        self.waiting.append(event)
        if self.batch is None or self.batch.done():
            self.batch = asyncio.ensure_future(self.flush())
        await self.batch

    async def flush(self) -> None:
        """Store what waits."""
        await asyncio.sleep(0)
        events, self.waiting = self.waiting, []
        await self.emit_batch(events)


class LooksBeforeItWaits(GoodSink):
    """Lets others run between looking for a double and writing."""

    async def _write(self, bodies: Sequence[bytes]) -> None:
        new = [body for body in bodies if not self._has(body)]
        await asyncio.sleep(0)
        self.destination += new


class CopiesAndReplaces(GoodSink):
    """Reads the destination, lets others run, and writes all of it back."""

    async def _write(self, bodies: Sequence[bytes]) -> None:
        copy = [*self.destination, *(body for body in bodies if not self._has(body))]
        await asyncio.sleep(0)
        self.destination[:] = copy


class RemembersBeforeItWrites(GoodSink):
    """Takes an event for stored before it is: a cancellation in between loses it for good."""

    def __init__(self, destination: list[bytes]) -> None:
        super().__init__(destination)
        self.seen: set[bytes] = set()

    async def _write(self, bodies: Sequence[bytes]) -> None:
        for body in bodies:
            if body not in self.seen:
                self.seen.add(body)
                await asyncio.sleep(0)
                self.destination.append(body)


class BrokenByCancellation(GoodSink):
    """Never lets go of what a cancelled emit held."""

    busy = False

    async def _write(self, bodies: Sequence[bytes]) -> None:
        assert not self.busy
        self.busy = True
        await asyncio.sleep(0)
        await super()._write(bodies)
        self.busy = False


class DropsOnClose(GoodSink):
    """Throws away what is under way when it is closed."""

    async def _write(self, bodies: Sequence[bytes]) -> None:
        for _ in range(2):
            await asyncio.sleep(0)
        if not self.closed:
            await super()._write(bodies)


class ClosesOnce(GoodSink):
    """Cannot be closed a second time."""

    async def aclose(self) -> None:
        """Fail the second time."""
        assert not self.closed
        await super().aclose()


class TakesAllWithIt(GoodSink):
    """Deletes what it stored when it is closed."""

    async def aclose(self) -> None:
        """Leave nothing."""
        await super().aclose()
        self.destination.clear()


class StoresAfterClose(GoodSink):
    """Takes events as before when it is closed."""

    async def aclose(self) -> None:
        """Do nothing."""


class DropsAfterClose(GoodSink):
    """Takes events when it is closed, and drops them."""

    def _refuse(self, events: Sequence[ExecutorEvent]) -> None:
        require_ids(events)

    async def _write(self, bodies: Sequence[bytes]) -> None:
        if not self.closed:
            await super()._write(bodies)
