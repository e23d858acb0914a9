"""The faults around a simulated spool."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from noetl_events.sinks.spool.journal import unpack
from tests.simulation.disk import ids_in
from tests.simulation.nemesis import inflict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.simulation.spooling import SpoolRun

FAULTS_END: Final = 60.0
"""The virtual second after which no fault starts."""

_HEAD: Final = 8


class SpoolFaults:
    """
    The faults of a run.

    Args:
        run: run that the faults hit.

    """

    def __init__(self, run: SpoolRun) -> None:
        self._run = run

    async def run(self) -> None:
        """Cause some faults, until the end of the fault phase."""
        faults: list[Callable[[], Awaitable[None]]] = [
            self._take_stream_away,
            partial(self._trouble, "flaky"),
            partial(self._trouble, "slow"),
            self._kill,
            self._cut_power,
            self._die_in_a_call,
            self._stop,
            self._fill_disk,
        ]
        # A recorded seed keeps its meaning, so later faults occur only in storms.
        if self._run.is_losing:
            faults += [self._lose_end, self._lose_end, self._create_again]
            faults += [self._lose_a_few] if self._run.faults_at_once > 1 else []
        if self._run.is_rotting:
            faults += [self._flip, self._flip]
        at_once = self._run.faults_at_once
        faults += [self._slow_disk, self._slow_disk] if at_once > 1 else []
        await inflict(self._run.draw, faults, paces=[0.2, 1.0, 8.0], until=FAULTS_END, at_once=at_once)
        self._run.disk.heal()
        self._run.is_over = True
        self._run.note("over")

    async def _take_stream_away(self) -> None:
        self._run.note("away")
        with self._run.stream.away():
            await asyncio.sleep(self._a_while())

    async def _trouble(self, state: str) -> None:
        """Put the stream into the state `is_<state>` for a while."""
        self._run.note(state)
        setattr(self._run.stream, f"is_{state}", True)
        await asyncio.sleep(self._a_while())
        setattr(self._run.stream, f"is_{state}", False)

    async def _lose_end(self) -> None:
        self._run.note("loss")
        gone = await self._run.stream.lose_end(self._a_while())
        self._run.note(f"back without {gone}")

    async def _lose_a_few(self) -> None:
        """Lose so few events, and so briefly, that the next ones make up for them."""
        self._run.note("small loss")
        gone = await self._run.stream.lose_end(0.0, most=3)
        self._run.note(f"back without {gone}")

    async def _create_again(self) -> None:
        self._run.note("created again")
        await self._run.stream.create_again(self._a_while())

    async def _kill(self) -> None:
        if not self._run.process.is_dead:
            self._run.note("kill")
            self._run.process.die()

    async def _cut_power(self) -> None:
        self._run.note("power cut")
        self._run.process.die()
        self._run.disk.cut_power()

    async def _die_in_a_call(self) -> None:
        self._run.disk.calls_to_live = self._run.draw.randint(1, 8)

    async def _stop(self) -> None:
        await self._run.stop()

    async def _fill_disk(self) -> None:
        self._run.note("disk refuses")
        self._run.disk.refuses = self._run.draw.choice([0.1, 0.5, 1.0])
        await asyncio.sleep(self._a_while())
        self._run.disk.refuses = 0.0

    async def _slow_disk(self) -> None:
        self._run.note("disk slow")
        self._run.disk.is_slow = True
        await asyncio.sleep(10.0 + self._a_while())
        self._run.disk.is_slow = False

    async def _flip(self) -> None:
        """Flip a byte of a synced record with an event that is nowhere else yet."""
        with self._run.stream.away():
            await asyncio.sleep(self._a_while())
            self._flip_one()
            await asyncio.sleep(self._a_while())

    def _flip_one(self) -> None:
        names = sorted(path.name for path in self._run.disk.folder.glob("*.segment"))
        if places := [place for name in names for place in self._unread(name)]:
            event_id, name, start, end = self._run.draw.choice(places)
            at = self._run.disk.flip(name, start, end)
            self._run.flipped.add(event_id)
            self._run.note(f"flipped {event_id} of {name} at {at - start}")

    def _unread(self, name: str) -> list[tuple[int, str, int, int]]:
        places = []
        for end, body in unpack(self._run.disk.synced(name)):
            # The record is found by its text, because a damaged one need not be an event.
            found = ids_in(body)
            if found and found[0] not in self._run.stream.stored:
                places.append((found[0], name, end - len(body) - _HEAD, end))
        return places

    def _a_while(self) -> float:
        return self._run.draw.expovariate(1.0) * self._run.draw.choice([0.05, 1.0, 10.0])
