"""A virtual clock: every timer runs at once, in the order of time, so that hours pass in milliseconds."""

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
    """No task is ready and no timer is set, so every waiting task would wait for ever."""


class Spinning(AssertionError):
    """Some task is always ready, so time stands still."""


_PATIENCE = 20_000
"""The number of the loop's turns at one moment that counts as spinning."""


_TURN = 1e-7
"""The virtual seconds that a turn of the loop takes."""


class _Jump(selectors.SelectSelector):
    """A selector that never waits: the clock moves to the next timer instead."""

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
        # A turn takes time as well: a timer below the clock's resolution would never run.
        self.now += max(timeout, _TURN)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with its own clock, which starts at 0."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self.broken: list[BaseException] = []
        """The exceptions of callbacks: a loop only logs them, and continues."""

        self.set_exception_handler(self._on_exception)

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._jump.now

    def _on_exception(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "handle" in context:
            self.broken.append(context["exception"])


def run_virtual(main: Coroutine[Any, Any, T], seed: int) -> T:
    """
    Run *main* on a virtual clock; the same *seed* repeats every step in the same order at the same time.

    An exception of a callback is raised here, too, after *main*.
    """
    loop = VirtualLoop()
    state = random.getstate()
    random.seed(seed)
    try:
        # The code under test reads the monotonic time, and draws the jitter of its waits.
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
