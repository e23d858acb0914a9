"""Rounds of alternating methods, and their output."""

from __future__ import annotations

import time
from operator import itemgetter, truediv
from statistics import median
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


async def take_turns(
    ways: dict[str, T], measure: Callable[[str, T], Awaitable[float]], rounds: int
) -> dict[str, list[float]]:
    """Return the result of *measure* for each of *ways*, round by round."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            rates[name].append(await measure(name, way))
    return rates


async def seconds_of(way: Callable[[], Awaitable[None]]) -> float:
    """Return the seconds that *way* takes."""
    began = time.perf_counter()
    await way()
    return time.perf_counter() - began


def medians(rates: dict[str, list[float]]) -> dict[str, float]:
    """Return the median of each method, the slowest first."""
    return dict(sorted(((name, median(some)) for name, some in rates.items()), key=itemgetter(1)))


def print_rates(title: str, rates: dict[str, list[float]], *, reference: str) -> None:
    """Print the medians, all rounds, and the median of the ratios to *reference* within each round."""
    print(f"\n{title}; x: times {reference}, within a round\n")
    for name, rate in medians(rates).items():
        times = median(map(truediv, rates[name], rates[reference]))
        rounds = " ".join(f"{each:,.0f}" for each in rates[name])
        print(f"  {name:44} {rate:9,.0f}/s {times:6.2f} x   rounds: {rounds}")
