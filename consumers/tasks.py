"""Tasks that run together: when one fails the others are cancelled and waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    Task: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

_CANCEL_AGAIN: Final = 0.5


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel *tasks* and return when all have ended, whatever they end with; what they raise is not reported."""
    everything = set(tasks)
    pending = everything
    while pending:
        for task in pending:
            task.cancel()
        # More than once: nats-py swallows a cancellation that comes while it flushes.
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN)
    await asyncio.gather(*everything, return_exceptions=True)


class Worker(Protocol):
    """What can be run until it is stopped: a `Projector`, `Lanes`, or several."""

    @property
    def in_hand(self) -> int:
        """Messages received and not settled."""

    async def run(self) -> None:
        """Work until `stop`, then finish what is in hand."""

    async def stop(self) -> None:
        """Ask for nothing more."""


class Together:
    """
    Run *workers* side by side; the first one that fails ends all.

    Args:
        workers: to run.
        beside: what runs as long as they do.

    """

    def __init__(
        self, workers: Sequence[Worker], *, beside: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()
    ) -> None:
        self._workers = workers
        self._beside = beside

    @property
    def in_hand(self) -> int:
        """Messages received and not settled, by all of them."""
        return sum(worker.in_hand for worker in self._workers)

    async def run(self) -> None:
        """
        Run until `stop`, then finish what is in hand.

        Raises:
            Exception: whatever ends one of them.

        """
        working = {asyncio.create_task(worker.run()) for worker in self._workers}
        beside = {asyncio.create_task(run()) for run in self._beside}
        try:
            while working:
                done, _ = await asyncio.wait(working | beside, return_when="FIRST_COMPLETED")
                for task in done:
                    task.result()
                working -= done
                beside -= done
        finally:
            await end_tasks(working | beside)

    async def stop(self) -> None:
        """Ask for nothing more, in any of them."""
        await asyncio.gather(*(worker.stop() for worker in self._workers))
