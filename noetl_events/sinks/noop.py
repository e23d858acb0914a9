"""A sink that drops every event: for tests, and to measure the cost of emitting without a destination."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events.envelope import ExecutorEvent


class NoopSink:
    """Accept every event and store none."""

    @classmethod
    def from_url(cls, _url: str) -> Self:
        """Open `noop:`."""
        return cls()

    async def emit(self, event: ExecutorEvent) -> None:
        """Drop *event*."""

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Drop *events*."""

    async def aclose(self) -> None:
        """Do nothing."""
