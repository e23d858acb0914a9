"""Sinks that break the contract for two events with one key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noetl_events import EventsRejected, decode, encode
from tests.testing_kit.broken_sinks import GoodSink, key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events import ExecutorEvent


class KnowsIdsOnly(GoodSink):
    """A sink that takes the id for the key, whatever the execution."""

    def _stored(self, event: ExecutorEvent) -> ExecutorEvent | None:
        return next((stored for stored in map(decode, self.destination) if stored.event_id == event.event_id), None)


class ComparesObjects(GoodSink):
    """A sink that compares an event with the row as read back, not by its meaning."""

    def _conflicts(self, events: dict[int, ExecutorEvent]) -> dict[int, str]:
        return {place: "another" for place, event in events.items() if self._stored(event) not in (None, event)}


class ComparesNothing(GoodSink):
    """A sink that takes an existing key for the same event."""

    def _conflicts(self, events: dict[int, ExecutorEvent]) -> dict[int, str]:
        return {}


class RejectsWithoutAName(GoodSink):
    """A sink that rejects a conflict like any other event."""

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Omit the conflicts among the rejected events."""
        try:
            await super().emit_batch(events)
        except EventsRejected as exc:
            raise EventsRejected(exc.reasons) from None


class KeepsTheLast(GoodSink):
    """A sink that overwrites existing events, and rejects none."""

    async def _write(self, bodies: Sequence[bytes]) -> None:
        keys = {key(decode(body)) for body in bodies}
        self.destination[:] = [body for body in self.destination if key(decode(body)) not in keys]
        await super()._write(bodies)


class DropsDoublesFirst(GoodSink):
    """A sink that keeps one event per key of a batch before it compares any."""

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store the first event of each key."""
        await super().emit_batch([*{key(event): event for event in reversed(events)}.values()][::-1])


class ComparesWithItsOwn(GoodSink):
    """A sink that compares only with events it stored itself."""

    def __init__(self, destination: list[bytes]) -> None:
        super().__init__(destination)
        self.before = [*destination]

    def _conflicts(self, events: dict[int, ExecutorEvent]) -> dict[int, str]:
        own = {place: event for place, event in events.items() if key(event) not in map(key, map(decode, self.before))}
        return super()._conflicts(own)


class RejectsOnce(GoodSink):
    """A sink that takes a repeated conflict for stored, because it was seen before."""

    def __init__(self, destination: list[bytes]) -> None:
        super().__init__(destination)
        self.seen: set[bytes] = set()

    def _conflicts(self, events: dict[int, ExecutorEvent]) -> dict[int, str]:
        new = {place: event for place, event in events.items() if encode(event) not in self.seen}
        self.seen |= set(map(encode, events.values()))
        return super()._conflicts(new)


class RejectsVariants(GoodSink):
    """A sink that takes every difference for another event."""

    def _conflicts(self, events: dict[int, ExecutorEvent]) -> dict[int, str]:
        there = {key(stored): encode(stored) for stored in map(decode, self.destination)}
        return {place: "another" for place, event in events.items() if there.get(key(event)) != encode(event)}
