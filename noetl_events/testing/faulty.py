"""A sink that fails on demand in front of a real one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.sink import EventSink


class FaultySink:
    """
    Raise the entries of *script*, one for each `emit_batch`; for None pass the batch on to *inner*.

    An exception is raised before *inner* is called; with *after* the batch is stored first, as when an answer is lost.
    After the end of the script all batches are passed on.  `calls` counts the attempts.
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
        """Emit *events*, or raise the next entry of the script."""
        self.calls += 1
        fault = next(self._script, None)
        if fault is None or self._after:
            await self._inner.emit_batch(events)
        if fault is not None:
            raise fault

    async def aclose(self) -> None:
        """Close the inner sink."""
        await self._inner.aclose()
