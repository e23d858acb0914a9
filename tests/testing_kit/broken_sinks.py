"""A sink that keeps the contract, and for each of its tests one or more that break it."""

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
    """A sink that keeps the contract, divided into the steps that the others break."""

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
        """Refuse later events."""
        self.closed = True

    def _refuse(self, events: Sequence[ExecutorEvent]) -> None:
        """Raise if nothing may be stored."""
        if self.closed:
            raise RuntimeError("closed")
        require_ids(events)

    def _encode(self, events: Sequence[ExecutorEvent]) -> tuple[list[bytes], dict[int, str]]:
        """Return the storable bodies, and the rejections."""
        bodies, reasons = [], {}
        for place, event in enumerate(events):
            try:
                bodies.append(encode(event))
            except MalformedEvent as exc:
                reasons[place] = str(exc)
        return bodies, reasons

    async def _write(self, bodies: Sequence[bytes]) -> None:
        """Write the bodies that are not stored yet."""
        for body in bodies:
            if not self._has(body):
                self.destination.append(body)

    def _has(self, body: bytes) -> bool:
        """Return true if the destination has an event with the key of that in *body*."""
        return self._stored(decode(body)) is not None

    def _stored(self, event: ExecutorEvent) -> ExecutorEvent | None:
        """Return the event at the destination that has the key of *event*."""
        return next((stored for stored in map(decode, self.destination) if key(stored) == key(event)), None)

    def _conflicts(self, events: dict[int, ExecutorEvent]) -> dict[int, str]:
        """Return the reasons of the events that differ from the stored ones with their keys."""
        found = {place: (self._stored(event), event) for place, event in events.items()}
        return {
            place: compare(stored, event).reason
            for place, (stored, event) in found.items()
            if stored is not None and compare(stored, event).likeness is Likeness.CONFLICT
        }


def key(event: ExecutorEvent) -> tuple[int, int | None]:
    """Return the key of an event."""
    return event.execution_id, event.event_id


class GoodLog(GoodSink):
    """A sink without keys that keeps the contract for such sinks: each event is stored once."""

    def _has(self, body: bytes) -> bool:
        return body in self.destination

    def _conflicts(self, events: dict[int, ExecutorEvent]) -> dict[int, str]:
        """Reject no event."""
        return {}


class NoBatches:
    """A sink without `emit_batch`."""

    def __init__(self, destination: list[bytes]) -> None:
        self.destination = destination

    async def emit(self, event: ExecutorEvent) -> None:
        """Store *event*."""
        self.destination.append(encode(event))

    async def aclose(self) -> None:
        """Do nothing."""


class StoresLater(GoodSink):
    """A sink that returns from `emit` before the event is stored."""

    async def emit(self, event: ExecutorEvent) -> None:
        """Leave *event* to a task."""
        self.task = asyncio.ensure_future(self.emit_batch([event]))


class DropsLast(GoodSink):
    """A sink that leaves the last event of a batch in a buffer."""

    async def _write(self, bodies: Sequence[bytes]) -> None:
        await super()._write(bodies[:-1])


class LosesOrder(GoodSink):
    """A sink that writes a batch in reverse order."""

    async def _write(self, bodies: Sequence[bytes]) -> None:
        await super()._write(bodies[::-1])


class NeedsOne(GoodSink):
    """A sink that fails on a batch without events."""

    def _refuse(self, events: Sequence[ExecutorEvent]) -> None:
        super()._refuse(events)
        assert events


class KeepsDoubles(GoodSink):
    """A sink that writes every duplicate."""

    def _has(self, body: bytes) -> bool:
        return False


class LooksOncePerBatch(GoodSink):
    """A sink that checks the destination for duplicates, and not the batch itself."""

    async def _write(self, bodies: Sequence[bytes]) -> None:
        self.destination += [body for body in bodies if not self._has(body)]


class ForgetsOnReopen(GoodSink):
    """A sink that knows only events it stored itself."""

    def __init__(self, destination: list[bytes]) -> None:
        super().__init__(destination)
        self.before = len(destination)

    def _has(self, body: bytes) -> bool:
        return key(decode(body)) in {key(decode(stored)) for stored in self.destination[self.before :]}


class LosesField(GoodSink):
    """A sink without a column for `meta`."""

    def _encode(self, events: Sequence[ExecutorEvent]) -> tuple[list[bytes], dict[int, str]]:
        return super()._encode([structs.replace(event, meta=None) for event in events])


class RejectsWholeBatch(GoodSink):
    """A sink that stores none of a batch with a bad event, and reports only the bad one."""

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store nothing if one event cannot be stored."""
        self._refuse(events)
        bodies, reasons = self._encode(events)
        if reasons:
            raise EventsRejected(reasons)
        await self._write(bodies)


class BlamesAll(GoodSink):
    """A sink that stores the valid events, and then rejects the whole batch."""

    def _encode(self, events: Sequence[ExecutorEvent]) -> tuple[list[bytes], dict[int, str]]:
        bodies, reasons = super()._encode(events)
        return bodies, dict.fromkeys(range(len(events)), str(reasons)) if reasons else {}


class IgnoresRejected(GoodSink):
    """A sink that silently drops bad events."""

    def _encode(self, events: Sequence[ExecutorEvent]) -> tuple[list[bytes], dict[int, str]]:
        return super()._encode(events)[0], {}


class StoresBeforeItRefuses(GoodSink):
    """A sink that notices a missing id after it has stored the events before."""

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store the events one after the other."""
        for event in events:
            await super().emit_batch([event])


class StoresWithoutId(GoodSink):
    """A sink that accepts an event without an id."""

    def _refuse(self, events: Sequence[ExecutorEvent]) -> None:
        """Accept a missing id."""


class Coalescing(GoodSink):
    """A sink that batches concurrent emits, which is allowed, and gives all of them the same result, which is not."""

    def __init__(self, destination: list[bytes]) -> None:
        super().__init__(destination)
        self.waiting: list[ExecutorEvent] = []
        self.batch: asyncio.Task[None] | None = None

    async def emit(self, event: ExecutorEvent) -> None:
        """Wait for the batch with *event*."""
        self.waiting.append(event)
        if self.batch is None or self.batch.done():
            self.batch = asyncio.ensure_future(self.flush())
        await self.batch

    async def flush(self) -> None:
        """Store the waiting events."""
        await asyncio.sleep(0)
        events, self.waiting = self.waiting, []
        await self.emit_batch(events)


class LooksBeforeItWaits(GoodSink):
    """A sink that lets other tasks run between the check for a duplicate and the write."""

    async def _write(self, bodies: Sequence[bytes]) -> None:
        new = [body for body in bodies if not self._has(body)]
        await asyncio.sleep(0)
        self.destination += new


class CopiesAndReplaces(GoodSink):
    """A sink that reads the destination, lets other tasks run, and writes all of it back."""

    async def _write(self, bodies: Sequence[bytes]) -> None:
        copy = [*self.destination, *(body for body in bodies if not self._has(body))]
        await asyncio.sleep(0)
        self.destination[:] = copy


class RemembersBeforeItWrites(GoodSink):
    """A sink that takes an event for stored too early: a cancellation in between loses it for good."""

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
    """A sink that never releases the lock of a cancelled emit."""

    busy = False

    async def _write(self, bodies: Sequence[bytes]) -> None:
        assert not self.busy
        self.busy = True
        await asyncio.sleep(0)
        await super()._write(bodies)
        self.busy = False


class DropsOnClose(GoodSink):
    """A sink that drops the emits in flight when it is closed."""

    async def _write(self, bodies: Sequence[bytes]) -> None:
        for _ in range(2):
            await asyncio.sleep(0)
        if not self.closed:
            await super()._write(bodies)


class ClosesOnce(GoodSink):
    """A sink that cannot be closed twice."""

    async def aclose(self) -> None:
        """Fail the second time."""
        assert not self.closed
        await super().aclose()


class TakesAllWithIt(GoodSink):
    """A sink that deletes its events when it is closed."""

    async def aclose(self) -> None:
        """Delete every event."""
        await super().aclose()
        self.destination.clear()


class StoresAfterClose(GoodSink):
    """A closed sink that still stores events."""

    async def aclose(self) -> None:
        """Do nothing."""


class DropsAfterClose(GoodSink):
    """A closed sink that accepts events, and drops them."""

    def _refuse(self, events: Sequence[ExecutorEvent]) -> None:
        require_ids(events)

    async def _write(self, bodies: Sequence[bytes]) -> None:
        if not self.closed:
            await super()._write(bodies)
