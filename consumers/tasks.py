"""Run tasks concurrently; if one fails, cancel the others and wait for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    Task: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

_CANCEL_AGAIN: Final = 0.5


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel *tasks* and return when all have ended; their errors are not reported."""
    everything = set(tasks)
    pending = everything
    while pending:
        for task in pending:
            task.cancel()
        # nats-py swallows a cancellation during a flush, so it is repeated.
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN)
    await asyncio.gather(*everything, return_exceptions=True)


class Worker(Protocol):
    """A task that runs until it is stopped: a `Projector`, a `PartitionAssignment`, a `Gateway`, or several."""

    @property
    def in_flight(self) -> int:
        """Number of messages received and not acknowledged, or of requests without an answer."""

    async def run(self) -> None:
        """Work until `stop`, then finish the work in flight."""

    async def stop(self) -> None:
        """Accept no further work."""


class Supervisor:
    """
    Run *workers* concurrently; if one fails, cancel the others.

    Args:
        workers: workers to run.
        background: functions to run until the workers end.

    """

    def __init__(
        self, workers: Sequence[Worker], *, background: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()
    ) -> None:
        self._workers = workers
        self._background = background

    @property
    def in_flight(self) -> int:
        """Number of messages or requests in flight, over all workers."""
        return sum(worker.in_flight for worker in self._workers)

    async def run(self) -> None:
        """
        Run until `stop`, then finish the work in flight.

        Raises:
            Exception: the error that ended one of them.

        """
        working = {asyncio.create_task(worker.run()) for worker in self._workers}
        background = {asyncio.create_task(run()) for run in self._background}
        try:
            while working:
                done, _ = await asyncio.wait(working | background, return_when="FIRST_COMPLETED")
                for task in done:
                    task.result()
                working -= done
                background -= done
        finally:
            await end_tasks(working | background)

    async def stop(self) -> None:
        """Accept no further work in any worker."""
        await asyncio.gather(*(worker.stop() for worker in self._workers))
