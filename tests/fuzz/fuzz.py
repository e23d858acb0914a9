"""
Fuzz for so many minutes, starting from the corpus.

    python -m tests.fuzz.fuzz [MINUTES] [SEED]

An input that makes something new of a target (an answer, a reason, a shape of event) is built upon.  One that breaks a
promise is written to `tests/fuzz/corpus/` as `found-...`, and the exit code is 1.  Mend the code, and keep the file.
"""

from __future__ import annotations

import hashlib
import math
import sys
import time
from pathlib import Path
from random import Random
from typing import Final

from tests.fuzz.mutating import mutated
from tests.fuzz.targets import TARGETS

CORPUS: Final = Path(__file__).parent / "corpus"
_SLOW: Final = 1.0
"""Seconds no input may take."""


def corpus() -> list[bytes]:
    """Return what is kept."""
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]


def fuzz(seed: int, *, seconds: float = math.inf, most: float = math.inf) -> tuple[int, dict[bytes, str]]:
    """Return how many inputs were tried, *most* at most, and what was found: an input and what it broke."""
    draw, inputs, seen, found = Random(seed), corpus(), set[tuple[str, str]](), dict[bytes, str]()
    deadline, tried = time.monotonic() + seconds, 0
    while time.monotonic() < deadline and tried < most:
        data = mutated(draw, inputs)
        tried += 1
        for name, target in TARGETS.items():
            # Of this thread's own: what a busy machine does meanwhile says nothing of the input.
            began = time.thread_time()
            try:
                outcome = (name, target(data))
            except Exception as exc:  # noqa: BLE001  (every exception is a finding)
                found[data] = f"{name}: {exc!r}"
                continue
            if (took := time.thread_time() - began) > _SLOW:
                found[data] = f"{name}: takes {took:.1f} s"
            if outcome not in seen:
                seen.add(outcome)
                inputs.append(data)
    return tried, found


def main(minutes: float, seed: int) -> int:
    """Fuzz, and keep what was found."""
    tried, found = fuzz(seed, seconds=minutes * 60)
    for data, broken in found.items():
        path = CORPUS / f"found-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        sys.stdout.write(f"{path.name}: {broken}\n")
    sys.stdout.write(f"{tried} inputs for {len(TARGETS)} targets with seed {seed}, {len(found)} found\n")
    return 1 if found else 0


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(float(words[0]) if words else 5.0, int(words[1]) if len(words) > 1 else int(time.time())))
