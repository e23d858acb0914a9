"""Replay with the original pace."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from consumers.backfill import FULL, paced, read_speed
from noetl_events.testing import make_event

if TYPE_CHECKING:
    from collections.abc import Sequence

_START = datetime(2026, 5, 31, tzinfo=UTC)


async def replayed(seconds: Sequence[float], *, speed: float, size: int = 500) -> list[tuple[float, int]]:
    """Return the arrival time and size of each batch of events created at *seconds*."""
    clock = 0.0

    async def sleep(wait: float) -> None:
        nonlocal clock
        clock += wait
        await asyncio.sleep(0)

    events = [make_event(1, created_at=_START + timedelta(seconds=second)) for second in seconds]
    batches = paced(events, speed=speed, size=size, now=lambda: clock, sleep=sleep)
    return [(clock, len(batch)) async for batch in batches]


@pytest.mark.parametrize(
    ("speed", "expected"),
    [(1.0, [(0.0, 2), (4.0, 1), (10.0, 2)]), (2.0, [(0.0, 2), (2.0, 1), (5.0, 2)]), (FULL, [(0.0, 5)])],
)
async def test_events_come_when_they_are_due(speed: float, expected: list[tuple[float, int]]) -> None:
    """Events are sent at their scaled time, those of one time together, and an event out of order at once."""
    assert await replayed([0, 0, 4, 10, 9], speed=speed) == expected


async def test_batches_are_bounded() -> None:
    """A batch holds no more than its size, however many events are due."""
    assert [size for _, size in await replayed([0] * 5, speed=FULL, size=2)] == [2, 2, 1]


@pytest.mark.parametrize(("value", "speed"), [("1x", 1.0), ("0.5x", 0.5), ("10x", 10.0), ("max", FULL)])
def test_speed_is_read(value: str, speed: float) -> None:
    """A speed is a factor, or unlimited."""
    assert read_speed(value) == speed


@pytest.mark.parametrize("value", ["", "0x", "1", "fast", "-1x", "1e3x", "nanx"])
def test_wrong_speed_is_refused(value: str) -> None:
    """An invalid speed is refused by name."""
    with pytest.raises(ValueError, match="--speed"):
        read_speed(value)
