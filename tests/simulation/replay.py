"""A seed from its first moment to its last: the run it makes, on a virtual clock, with what is simulated in place."""

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
    """What happened in a run, and when."""

    def note(self, what: str) -> None:
        """Add *what*, which happens now."""
        self.append(f"{asyncio.get_running_loop().time():9.4f} {what}")


class Run(Protocol):
    """What a seed makes."""

    timeline: Timeline

    async def run(self) -> None:
        """Run to the end, and look at what is there then."""


R = TypeVar("R", bound=Run)


def replay(seed: int, make: Callable[[int], R], replaced: Callable[[R], Iterable[tuple[Any, str, Any]]]) -> R:
    """
    Run what *make* makes of *seed* and return it; *replaced* says which attributes have which values meanwhile.

    Raises:
        Violation: with the timeline as a note.

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
