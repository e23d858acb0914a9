"""A sink that keeps how old events were when they were stored, in front of a real one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.sink import EventSink


class TimedSink:
    """Pass on to *inner*; `ages_ms` grows by one number for each event stored."""

    def __init__(self, inner: EventSink) -> None:
        self.ages_ms: list[float] = []
        self._inner = inner

    async def emit(self, event: ExecutorEvent) -> None:
        """Emit *event*."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Emit *events* and note their ages."""
        await self._inner.emit_batch(events)
        now = datetime.now(UTC)
        self.ages_ms.extend((now - event.created_at).total_seconds() * 1e3 for event in events)

    async def aclose(self) -> None:
        """Close the inner sink."""
        await self._inner.aclose()
