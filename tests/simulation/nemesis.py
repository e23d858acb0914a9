"""Successive faults, drawn from a seed, until the end of the fault phase."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random


async def inflict(
    draw: Random,
    faults: Sequence[Callable[[], Awaitable[None]]],
    *,
    paces: Sequence[float],
    until: float,
    at_once: int = 1,
) -> None:
    """Cause some of *faults*, *at_once* at a time, at one of the *paces* in seconds; none starts after *until*."""
    chosen = draw.sample(faults, draw.randint(0, len(faults)))
    pace = draw.choice(paces)
    async with asyncio.TaskGroup() as others:
        for _ in range(at_once - 1):
            others.create_task(_inflict_one_by_one(draw, chosen, pace, until))
        await _inflict_one_by_one(draw, chosen, pace, until)


async def _inflict_one_by_one(
    draw: Random, faults: Sequence[Callable[[], Awaitable[None]]], pace: float, until: float
) -> None:
    while faults and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(draw.expovariate(1.0) * pace)
        await draw.choice(faults)()
