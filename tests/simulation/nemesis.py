"""Faults one after the other, drawn from a seed, until it is time to stop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random


async def inflict(
    draw: Random, faults: Sequence[Callable[[], Awaitable[None]]], *, paces: Sequence[float], until: float
) -> None:
    """Cause some of *faults*, at one of the *paces* in seconds; after the virtual second *until* none begins."""
    chosen = draw.sample(faults, draw.randint(0, len(faults)))
    pace = draw.choice(paces)
    while chosen and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(draw.expovariate(1.0) * pace)
        await draw.choice(chosen)()
