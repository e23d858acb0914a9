"""
Fuzz for MINUTES minutes, starting from the corpus.

    python -m tests.fuzz.fuzz [MINUTES] [SEED]

An input with a new outcome of a target (an answer, a reason, a shape of event) is mutated further.  An input that
breaks a promise is written to `tests/fuzz/corpus/` as `found-...`, and the exit code is 1.  Fix the code, and keep the
file.
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
"""The seconds that an input may take."""


def corpus() -> list[bytes]:
    """Return the inputs in the corpus."""
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]


def fuzz(seed: int, *, seconds: float = math.inf, most: float = math.inf) -> tuple[int, dict[bytes, str]]:
    """Return the number of inputs tried, *most* at most, and the findings: an input and the promise it broke."""
    draw, inputs, seen, found = Random(seed), corpus(), set[tuple[str, str]](), dict[bytes, str]()
    deadline, tried = time.monotonic() + seconds, 0
    while time.monotonic() < deadline and tried < most:
        data = mutated(draw, inputs)
        tried += 1
        for name, target in TARGETS.items():
            # The time of this thread counts, because the load of the machine says nothing about the input.
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
    """Fuzz, and store the findings."""
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
