"""
Partition assignment: the partitions of a stream are spread over the running replicas.

Each partition has an exclusive consumer, which the server delivers to one client at a time, in order.  Presence decides
which replica pulls from which partition, so that each has its share.  When a replica dies, the remaining ones pull from
its partitions, and receive once the server releases the dead client's pins.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from consumers.tasks import end_tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consumers.projector.projector import Projector
    from noetl_events.jetstream.presence import Presence

log = structlog.get_logger()


class PartitionAssignment:
    """
    Run this replica's share of *partitions*.

    Args:
        partitions: factories of the projectors, one per partition.
        presence: presence of this replica in its group.

    """

    def __init__(self, partitions: Sequence[Callable[[], Projector]], presence: Presence) -> None:
        self._partitions = partitions
        self._presence = presence
        self._projectors: dict[int, Projector] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Number of messages received and not acknowledged."""
        return sum(projector.in_flight for projector in self._projectors.values())

    @property
    def projectors(self) -> list[Projector]:
        """The projectors that run now."""
        return list(self._projectors.values())

    @property
    def assigned(self) -> list[int]:
        """The partitions that this replica runs, including those it is releasing."""
        return sorted(self._tasks)

    async def run(self) -> None:
        """
        Run until `stop`, then finish the messages in flight.

        Raises:
            Exception: the error that ended one of the projectors.

        """
        announcing = asyncio.create_task(self._presence.run())
        try:
            while not self._stopping.is_set():
                await self._rebalance()
                await self._wait_for_change()
            await self._release(self.assigned)
        finally:
            await end_tasks([*self._tasks.values(), announcing])

    async def stop(self) -> None:
        """Stop pulling; `run` returns once every message in flight is acknowledged."""
        self._stopping.set()

    async def _rebalance(self) -> None:
        members = self._presence.members
        mine = {
            partition
            for partition in range(len(self._partitions))
            if members[partition % len(members)] == self._presence.name
        }
        if mine != set(self.assigned):
            log.info("partitions.assigned", replicas=len(members), mine=sorted(mine))
        await self._release([partition for partition in self.assigned if partition not in mine])
        for partition in sorted(mine.difference(self.assigned)):
            projector = self._projectors[partition] = self._partitions[partition]()
            self._tasks[partition] = asyncio.create_task(projector.run())

    async def _release(self, partitions: Sequence[int]) -> None:
        await asyncio.gather(*(self._projectors[partition].stop() for partition in partitions))
        for partition in partitions:
            await self._tasks[partition]
            del self._tasks[partition], self._projectors[partition]

    async def _wait_for_change(self) -> None:
        changes = [asyncio.create_task(self._presence.changed()), asyncio.create_task(self._stopping.wait())]
        try:
            done, _ = await asyncio.wait({*changes, *self._tasks.values()}, return_when="FIRST_COMPLETED")
        finally:
            for task in changes:
                task.cancel()
        for task in done:
            task.result()
