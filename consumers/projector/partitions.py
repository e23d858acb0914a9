"""
The lanes of a partitioned stream, spread over the replicas that are there.

Each lane is an exclusive consumer: whichever replica asks for it, the server serves one, in order.  Presence decides
who asks, so that each replica has its share; when one dies the others ask for its lanes, and get them as soon as the
server gives up its pins.
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


class Lanes:
    """
    Run this replica's share of *lanes*.

    Args:
        lanes: each makes a new projector of its lane.
        presence: of this replica among the others.

    """

    def __init__(self, lanes: Sequence[Callable[[], Projector]], presence: Presence) -> None:
        self._lanes = lanes
        self._presence = presence
        self._projectors: dict[int, Projector] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()

    @property
    def in_hand(self) -> int:
        """Messages received and not settled."""
        return sum(projector.in_hand for projector in self._projectors.values())

    @property
    def projectors(self) -> list[Projector]:
        """Those that run now."""
        return list(self._projectors.values())

    @property
    def owned(self) -> list[int]:
        """The lanes this replica runs, or still has in hand."""
        return sorted(self._tasks)

    async def run(self) -> None:
        """
        Run until `stop`, then finish what is in hand.

        Raises:
            Exception: whatever ends one of the projectors.

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
        """Ask for nothing more; `run` returns once everything in hand is settled."""
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
