"""The nemesis: a plan of faults drawn from a seed, and its execution."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import structlog

from tests.faults.campaign.faults import FAULTS, Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.campaign.system import System

log = structlog.get_logger()

# A killed part needs so many seconds more for its restart before its next fault.
_RECOVERY = 2.0


class Pace(NamedTuple):
    """The range of seconds between two faults, and the range of a fault's duration."""

    gap: tuple[float, float] = (2.0, 4.5)
    lasting: tuple[float, float] = (0.5, 4.0)


class Planned(NamedTuple):
    """A planned fault: its second in the campaign, its kind, and its turn."""

    at: float
    kind: str
    turn: Turn


class Happened(msgspec.Struct, frozen=True, kw_only=True):
    """An executed fault: monotonic seconds of its start and its healing, and its victim."""

    kind: str
    victim: str
    began: float
    healed: float


def draw(seed: int, seconds: float, *, kinds: Sequence[str] = tuple(FAULTS), pace: Pace = Pace()) -> list[Planned]:  # noqa: B008
    """Return the plan of *seed*: every kind once before any repeats, and never two faults of a part at once."""
    chance = random.Random(seed)
    busy: dict[str, float] = defaultdict(float)
    plan: list[Planned] = []
    deck: list[str] = []
    at = 0.0
    while (at := at + chance.uniform(*pace.gap)) < seconds:
        if not any(busy[FAULTS[kind].part] <= at for kind in deck):
            deck += chance.sample(kinds, len(kinds))
        kind = next((kind for kind in deck if busy[FAULTS[kind].part] <= at), None)
        if kind is None:
            continue
        deck.remove(kind)
        turn = Turn(round(chance.uniform(*pace.lasting), 2), chance.random())
        busy[FAULTS[kind].part] = at + turn.seconds + _RECOVERY
        plan.append(Planned(round(at, 2), kind, turn))
    return plan


class Nemesis:
    """Executes a plan on *system*."""

    def __init__(self, system: System, plan: Sequence[Planned]) -> None:
        self.happened: list[Happened] = []
        self._system = system
        self._plan = plan
        self._parts: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(self) -> None:
        """Return once the last fault is healed."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as faults:
            for planned in self._plan:
                await asyncio.sleep(max(0.0, began + planned.at - time.monotonic()))
                faults.create_task(self._inflict(planned))

    async def _inflict(self, planned: Planned) -> None:
        fault = FAULTS[planned.kind]
        async with self._parts[fault.part]:
            began = time.monotonic()
            victim = await fault.inflict(self._system, planned.turn)
            happened = Happened(kind=planned.kind, victim=victim, began=began, healed=time.monotonic())
        self.happened.append(happened)
        log.info(
            "nemesis.healed", at=planned.at, kind=planned.kind, victim=victim, lasted=round(happened.healed - began, 1)
        )
