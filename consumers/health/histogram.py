"""How values are spread, in a fixed number of buckets: a hundred million of them take no more room than one."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
EVENTS: Final = (1.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0)


class Histogram:
    """
    Counts of values.

    Args:
        bounds: the largest value of each bucket, ascending; one more bucket takes what is larger.

    """

    def __init__(self, bounds: Iterable[float]) -> None:
        self.sum = 0.0
        """Of all values."""

        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)

    def add(self, value: float) -> None:
        """Count *value*."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return each bound and how many values are not above it, as Prometheus wants them."""
        bounds = map(str, chain(self._bounds, ["+Inf"]))
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True))
