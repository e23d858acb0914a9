"""A virtual clock: whatever waits is woken at once, in the order of its time, and hours pass in milliseconds."""

from __future__ import annotations

import asyncio
import random
import selectors
from typing import TYPE_CHECKING, Any, TypeVar
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class Stalled(AssertionError):
    """Nothing is ready, and no timer is set: whoever waits now would wait for ever."""


class Spinning(AssertionError):
    """Something is always ready, so that time stands still."""


_PATIENCE = 20_000
"""Turns of the loop at one moment, after which it spins."""


_TURN = 1e-7
"""Seconds a turn of the loop takes."""


class _Jump(selectors.SelectSelector):
    """A selector that never waits: it moves the clock to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stalled("nothing will ever happen again")
        self._turns = 0 if timeout > 0 else self._turns + 1
        if self._turns > _PATIENCE:
            self._turns = 0
            raise Spinning(f"busy at {self.now:.4f}")
        # A turn takes its time too: what is due in less than the clock can tell would never come.
        self.now += max(timeout, _TURN)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a clock of its own, which begins at 0."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self.broken: list[BaseException] = []
        """What callbacks have raised: a loop only tells its log of that, and goes on."""

        self.set_exception_handler(self._on_exception)

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._jump.now

    def _on_exception(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "handle" in context:
            self.broken.append(context["exception"])


def run_virtual(main: Coroutine[Any, Any, T], seed: int) -> T:
    """
    Run *main* on a virtual clock; with the same *seed* everything happens in the same order at the same times.

    What a callback raises is raised here too, once *main* is over.
    """
    loop = VirtualLoop()
    state = random.getstate()
    random.seed(seed)
    try:
        # The code under test asks for monotonic time, and draws the jitter of its waits.
        with patch("time.monotonic", loop.time):
            outcome = loop.run_until_complete(main)
        if loop.broken:
            raise loop.broken[0]
        return outcome
    finally:
        random.setstate(state)
        _end(loop)


def _end(loop: VirtualLoop) -> None:
    with patch("time.monotonic", loop.time):
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        if pending:
            loop.run_until_complete(asyncio.wait(pending, timeout=60))
    loop.close()
