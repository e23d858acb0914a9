"""
Simulate many seeds, and print those that break a promise.

    python -m tests.simulation.simulate [SEEDS] [FIRST]

Each seed is two interleavings, one of the publisher and one of projectors.  A seed that fails prints its timeline; add
it to `regressions.py` once the bug is mended.  Exit code 1 if one failed.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Final

import structlog

from tests.simulation.projecting import simulate_projector
from tests.simulation.publishing import simulate_publisher

if TYPE_CHECKING:
    from collections.abc import Callable

SIMULATIONS: Final[dict[str, Callable[[int], list[str]]]] = {
    "publisher": simulate_publisher,
    "projector": simulate_projector,
}
_CHUNK: Final = 50
_MOST_SHOWN: Final = 10
_DEBUG_ONLY: Final = 50


def quiet() -> None:
    """Log nothing: what is simulated warns of every fault."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_DEBUG_ONLY))


def failures(first: int) -> list[str]:
    """Simulate the seeds of one chunk, and return what failed of it in words."""
    quiet()
    failed = []
    for seed in range(first, first + _CHUNK):
        for name, simulate in SIMULATIONS.items():
            try:
                simulate(seed)
            except Exception as exc:  # noqa: BLE001  (whatever it is, it is a finding)
                failed.append(f"{name} {seed}: {exc!r}\n" + "\n".join(getattr(exc, "__notes__", ())))
    return failed


def main(seeds: int, first: int) -> int:
    """Simulate so many *seeds* from *first* up."""
    began = time.monotonic()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = (each for chunk in pool.map(failures, range(first, first + seeds, _CHUNK)) for each in chunk)
        failed = list(islice(found, _MOST_SHOWN))
        pool.shutdown(cancel_futures=True)
    minutes = (time.monotonic() - began) / 60
    runs = seeds * len(SIMULATIONS)
    sys.stdout.write("".join(f"{each}\n\n" for each in failed))
    sys.stdout.write(f"{runs} interleavings from seed {first} in {minutes:.1f} min, {len(failed)} failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*([int(word) for word in sys.argv[1:]] + [1_000, 0][len(sys.argv) - 1 :])))
