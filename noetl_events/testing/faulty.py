"""A sink that fails on demand, in front of a real one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.sink import EventSink


class FaultySink:
    """
    Raise what *script* says, one entry for each `emit_batch`, and pass on to *inner* where it says None.

    An exception is raised before *inner* is asked; with *after* the batch is stored first, as when an answer is lost.
    Past the end of the script everything passes.  `calls` counts the attempts.
    """

    def __init__(self, inner: EventSink, script: Iterable[BaseException | None], *, after: bool = False) -> None:
        self._inner = inner
        self._script = iter(script)
        self._after = after
        self.calls = 0

    async def emit(self, event: ExecutorEvent) -> None:
        """Emit *event*, or fail."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Emit *events*, or fail as the script says."""
        self.calls += 1
        fault = next(self._script, None)
        if fault is None or self._after:
            await self._inner.emit_batch(events)
        if fault is not None:
            raise fault

    async def aclose(self) -> None:
        """Close the inner sink."""
        await self._inner.aclose()
