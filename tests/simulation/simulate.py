"""
Simulate many seeds, and print the ones that break a promise.

    python -m tests.simulation.simulate [SEEDS] [FIRST] [ENOUGH]

Each seed makes nine interleavings: one each of the publisher, of projectors and of a spool with one fault at a time;
the same in a storm of three faults at a time; one of projectors with colliding ids, and one with a sink that raises;
and one of a record.  A failing seed prints the end of its timeline; add it to `regressions.py` once the bug is fixed.
ENOUGH failures, ten by default, end the simulation.  Exit code 1 if a seed failed.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from tests.simulation.projecting import simulate_projector
from tests.simulation.publishing import simulate_publisher
from tests.simulation.recording import simulate_recording
from tests.simulation.spooling import simulate_spool

if TYPE_CHECKING:
    from collections.abc import Callable

_STORM: Final = 3
"""The numbers of faults that may overlap in a run."""

SIMULATIONS: Final[dict[str, Callable[[int], list[str]]]] = {
    "publisher": simulate_publisher,
    "publisher in a storm": partial(simulate_publisher, faults_at_once=_STORM),
    "projector": simulate_projector,
    "projector of colliding ids": partial(simulate_projector, ids_collide=True),
    "projector in a storm": partial(simulate_projector, faults_at_once=_STORM),
    "projector of a sink that raises": partial(simulate_projector, faults_at_once=_STORM, sinks_raise=True),
    "spool": simulate_spool,
    "spool in a storm": partial(simulate_spool, faults_at_once=_STORM),
    "recording": simulate_recording,
}
_CHUNK: Final = 50
_DEFAULTS: Final = (1_000, 0, 10)
_LINES: Final = 40
_TELL_EVERY: Final = 10_000
_DEBUG_ONLY: Final = 50


def quiet() -> None:
    """Log nothing, because the code under test warns of every fault."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_DEBUG_ONLY))


def failures(first: int) -> list[str]:
    """Simulate the seeds of a chunk, and return the failures as text."""
    quiet()
    failed = []
    for seed in range(first, first + _CHUNK):
        for name, simulate in SIMULATIONS.items():
            try:
                simulate(seed)
            except Exception as exc:  # noqa: BLE001  (every exception is a finding)
                failed.append(f"{name} {seed}: {exc!r}\n" + _end_of(exc))
    return failed


def _end_of(exc: Exception) -> str:
    lines = "\n".join(getattr(exc, "__notes__", ())).splitlines()
    return "\n".join(lines[:1] + lines[1:][-_LINES:])


def main(seeds: int, first: int, enough: int) -> int:
    """Simulate *seeds* seeds from *first* up, until *enough* have failed."""
    began = time.monotonic()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        done, failed = 0, 0
        for found in pool.map(failures, range(first, first + seeds, _CHUNK)):
            done += _CHUNK * len(SIMULATIONS)
            failed += len(found)
            sys.stdout.write("".join(f"{each}\n\n" for each in found))
            if failed >= enough:
                pool.shutdown(cancel_futures=True)
                break
            if done % _TELL_EVERY < _CHUNK * len(SIMULATIONS):
                report(done, first, began, failed)
    report(done, first, began, failed)
    return 1 if failed else 0


def report(done: int, first: int, began: float, failed: int) -> None:
    """Print the progress."""
    minutes = (time.monotonic() - began) / 60
    sys.stdout.write(f"{done} interleavings from seed {first} in {minutes:.1f} min, {failed} failed\n")
    sys.stdout.flush()


if __name__ == "__main__":
    words = tuple(int(word) for word in sys.argv[1:])
    sys.exit(main(*words, *_DEFAULTS[len(words) :]))
