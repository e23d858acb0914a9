"""The replay of a seed: its run on a virtual clock, with the simulated parts in place."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from unittest.mock import patch

from tests.simulation.clock import run_virtual
from tests.simulation.violation import telling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Timeline(list[str]):
    """The steps of a run, with their times."""

    def note(self, what: str) -> None:
        """Add *what* at the present time."""
        self.append(f"{asyncio.get_running_loop().time():9.4f} {what}")


class Run(Protocol):
    """The run of a seed."""

    timeline: Timeline

    async def run(self) -> None:
        """Run to the end, and check the result."""


R = TypeVar("R", bound=Run)


def replay(seed: int, make: Callable[[int], R], replaced: Callable[[R], Iterable[tuple[Any, str, Any]]]) -> R:
    """
    Return the finished run that *make* makes of *seed*; *replaced* has the attributes to patch meanwhile.

    Raises:
        Violation: a promise was broken; the timeline is a note of the exception.

    """
    made: list[R] = []

    async def run() -> None:
        made.append(make(seed))
        with ExitStack() as stack:
            for owner, name, value in replaced(made[0]):
                stack.enter_context(patch.object(owner, name, value))
            await made[0].run()

    with telling(lambda: made[0].timeline):
        run_virtual(run(), seed)
    return made[0]
