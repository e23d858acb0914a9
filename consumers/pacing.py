"""Events at the pace at which they happened, or a multiple of it."""

from __future__ import annotations

import asyncio
import math
import re
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from noetl_events.envelope import ExecutorEvent

FULL: Final = math.inf


async def paced(
    events: Iterable[ExecutorEvent],
    *,
    speed: float,
    size: int,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncGenerator[list[ExecutorEvent], None]:
    """
    Yield *events* in their order, in batches of those that are due, *size* at most.

    Each is due so long after the first as it was created after it, divided by *speed*.  An event that is older than one
    before it is due at once, and so is all that a destination that was away has held up.
    """
    start, origin = now(), None
    due: list[ExecutorEvent] = []
    for event in events:
        origin = origin or event.created_at
        wait = (event.created_at - origin).total_seconds() / speed - (now() - start)
        if due and (len(due) == size or wait > 0):
            yield due
            due = []
            wait = (event.created_at - origin).total_seconds() / speed - (now() - start)
        if wait > 0:
            await sleep(wait)
        due.append(event)
    if due:
        yield due


def read_speed(value: str) -> float:
    """
    Return how many times as fast as it happened *value* says: `1x`, `0.5x`, `10x` or `max`.

    Raises:
        ValueError: it says none of these.

    """
    if value == "max":
        return FULL
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)x", value)
    if match is None or not float(match[1]):
        raise ValueError(f"--speed: {value!r} is neither `max` nor such as `1x` or `10x`")
    return float(match[1])
