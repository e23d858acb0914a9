"""A sink that keeps events in this process: for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from noetl_events.envelope import MalformedEvent, decode, encode
from noetl_events.sink import EventsRejected, require_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events.envelope import ExecutorEvent


class MemorySink:
    """Keep the wire form of each event by its id, in the order of arrival."""

    def __init__(self) -> None:
        self._bodies: dict[int, bytes] = {}
        self._closed = False

    @classmethod
    def from_url(cls, _url: str) -> Self:
        """Open `memory:`, a new and empty one."""
        return cls()

    @property
    def events(self) -> list[ExecutorEvent]:
        """The events kept, in the order of arrival, their payload decoded lazily as from any stream."""
        return [decode(body) for body in self._bodies.values()]

    async def emit(self, event: ExecutorEvent) -> None:
        """Keep *event*."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Keep *events*; see `EventSink` for what is raised."""
        if self._closed:
            raise RuntimeError("MemorySink is closed")
        rejected: dict[int, str] = {}
        for place, (event_id, event) in enumerate(zip(require_ids(events), events, strict=True)):
            try:
                self._bodies.setdefault(event_id, encode(event))
            except MalformedEvent as exc:
                rejected[place] = str(exc)
        if rejected:
            raise EventsRejected(rejected)

    async def aclose(self) -> None:
        """Refuse further events; those kept stay readable."""
        self._closed = True
