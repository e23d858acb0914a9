"""A single direction of the connection between a client and the server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random


class Pipe:
    """
    A pipe that delivers in order, after a latency, or not at all.

    Args:
        draw: random generator of the run.

    """

    def __init__(self, draw: Random) -> None:
        self._draw = draw
        self._loop = asyncio.get_running_loop()
        self._last = 0.0
        self._under_way: list[tuple[asyncio.TimerHandle, list[Callable[[], Any]]]] = []

    def send(self, items: list[Callable[[], Any]]) -> None:
        """Call *items* when they arrive."""
        when = max(self._loop.time() + self._draw.expovariate(200), self._last + 1e-6)
        self._last = when
        handle = self._loop.call_at(when, self._arrive)
        self._under_way.append((handle, items))

    def cut(self, *, keep_prefix: bool) -> None:
        """Lose the items in flight; with *keep_prefix* the first part arrives now."""
        for handle, _ in self._under_way:
            handle.cancel()
        left = [item for _, items in self._under_way for item in items]
        self._under_way.clear()
        if keep_prefix and left:
            for item in left[: self._draw.randrange(len(left) + 1)]:
                item()

    def _arrive(self) -> None:
        _, items = self._under_way.pop(0)
        for item in items:
            item()
