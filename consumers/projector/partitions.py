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
    Run this replica's share of *lanes*.

    Args:
        lanes: factories of the projectors, one per partition.
        presence: presence of this replica in its group.

    """

    def __init__(self, lanes: Sequence[Callable[[], Projector]], presence: Presence) -> None:
        self._lanes = lanes
        self._presence = presence
        self._projectors: dict[int, Projector] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()

    @property
    def in_hand(self) -> int:
        """Number of messages received and not acknowledged."""
        return sum(projector.in_hand for projector in self._projectors.values())

    @property
    def projectors(self) -> list[Projector]:
        """The projectors that run now."""
        return list(self._projectors.values())

    @property
    def owned(self) -> list[int]:
        """The partitions that this replica runs, including those it is releasing."""
        return sorted(self._tasks)

    async def run(self) -> None:
        """
        Run until `stop`, then finish the messages in flight.

        Raises:
            Exception: the error that ended one of the projectors.

        """
        telling = asyncio.create_task(self._presence.run())
        try:
            while not self._stopping.is_set():
                await self._rebalance()
                await self._wait_for_news()
            await self._let_go(self.owned)
        finally:
            await end_tasks([*self._tasks.values(), telling])

    async def stop(self) -> None:
        """Stop pulling; `run` returns once every message in flight is acknowledged."""
        self._stopping.set()

    async def _rebalance(self) -> None:
        members = self._presence.members
        mine = {lane for lane in range(len(self._lanes)) if members[lane % len(members)] == self._presence.name}
        if mine != set(self.owned):
            log.info("lanes.shared", replicas=len(members), mine=sorted(mine))
        await self._let_go([lane for lane in self.owned if lane not in mine])
        for lane in sorted(mine.difference(self.owned)):
            projector = self._projectors[lane] = self._lanes[lane]()
            self._tasks[lane] = asyncio.create_task(projector.run())

    async def _let_go(self, lanes: Sequence[int]) -> None:
        await asyncio.gather(*(self._projectors[lane].stop() for lane in lanes))
        for lane in lanes:
            await self._tasks[lane]
            del self._tasks[lane], self._projectors[lane]

    async def _wait_for_news(self) -> None:
        news = [asyncio.create_task(self._presence.changed()), asyncio.create_task(self._stopping.wait())]
        try:
            done, _ = await asyncio.wait({*news, *self._tasks.values()}, return_when="FIRST_COMPLETED")
        finally:
            for task in news:
                task.cancel()
        for task in done:
            task.result()
