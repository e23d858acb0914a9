"""A sink that keeps events in this process: for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from noetl_events.conflicts import Likeness, compare
from noetl_events.envelope import MalformedEvent, decode, encode
from noetl_events.sink import EventsRejected, require_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.identity import Key


class MemorySink:
    """Keep the wire form of each event by its key, in the order of emits."""

    def __init__(self) -> None:
        self.variants = 0
        """Number of events with a known key and a different payload."""
        self._bodies: dict[Key, bytes] = {}
        self._closed = False

    @classmethod
    def from_url(cls, _url: str) -> Self:
        """Open `memory:`, which is new and empty."""
        return cls()

    @property
    def events(self) -> list[ExecutorEvent]:
        """Stored events in the order of emits, with lazily decoded payloads as from a stream."""
        return [decode(body) for body in self._bodies.values()]

    async def emit(self, event: ExecutorEvent) -> None:
        """Store *event*."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store *events*; raises as `EventSink`."""
        if self._closed:
            raise RuntimeError("MemorySink is closed")
        rejected: dict[int, str] = {}
        conflicts: set[int] = set()
        for place, (event_id, event) in enumerate(zip(require_ids(events), events, strict=True)):
            try:
                body = encode(event)
            except MalformedEvent as exc:
                rejected[place] = str(exc)
                continue
            stored = self._bodies.setdefault((event.execution_id, event_id), body)
            if stored != body and (reason := self._compare(stored, event)):
                rejected[place] = reason
                conflicts.add(place)
        if rejected:
            raise EventsRejected(rejected, conflicts=conflicts)

    def _compare(self, stored: bytes, event: ExecutorEvent) -> str:
        """Return the reason why *event* differs from the *stored* one; empty if it does not."""
        found = compare(decode(stored), event)
        self.variants += found.likeness is Likeness.VARIANT
        return found.reason if found.likeness is Likeness.CONFLICT else ""

    async def aclose(self) -> None:
        """Refuse further events; the stored ones stay readable."""
        self._closed = True
