"""
The Rust side: a program with the crate's struct, and what it once said.

    python tests/parity/seed.py path/to/seed-parity      writes golden/ anew

`rust/README.md` says how to build it.  `NOETL_SEED_PARITY` names it for the tests that ask it itself.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from noetl_events import ExecutorEvent, encode
from noetl_events.testing import events

if TYPE_CHECKING:
    from collections.abc import Sequence

GOLDEN = Path(__file__).parent / "golden"
WRITTEN = GOLDEN / "rust_written.jsonl"
READS = GOLDEN / "reads.json"
PYTHON_WRITTEN = GOLDEN / "python_written.jsonl"
PYTHON_REREAD = GOLDEN / "python_written.reread.jsonl"


def ask(program: str, bodies: Sequence[bytes]) -> list[dict[str, Any]]:
    """Return what the crate makes of each of *bodies*, none of which holds a line end."""
    done = subprocess.run([program, "read"], input=b"\n".join(bodies), capture_output=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def made_bodies(count: int, *, start: int = 1) -> list[bytes]:
    """Return the wire form of *count* events made by Hypothesis, the same ones for the same *start*."""
    bodies: list[bytes] = []
    quiet = settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    @seed(start)
    @quiet
    @given(events())
    def collect(event: ExecutorEvent) -> None:
        bodies.append(encode(event))

    collect()
    return bodies


def main(program: str) -> None:
    """Write what is golden."""
    from tests.parity.cases import CASES  # noqa: PLC0415  (the tests import this module first)

    GOLDEN.mkdir(exist_ok=True)
    WRITTEN.write_bytes(subprocess.run([program, "write"], capture_output=True, check=True).stdout)
    verdicts = {}
    for name, (body, _) in CASES.items():
        [answer] = ask(program, [body]) or [{"ok": False, "error": "empty"}]
        verdicts[name] = {"body": base64.b64encode(body).decode(), "ok": answer["ok"], "error": answer.get("error")}
    READS.write_text(json.dumps(verdicts, indent=1) + "\n")
    bodies = made_bodies(300)
    PYTHON_WRITTEN.write_bytes(b"\n".join(bodies) + b"\n")
    PYTHON_REREAD.write_text("".join(json.dumps(answer) + "\n" for answer in ask(program, bodies)))


if __name__ == "__main__":
    main(sys.argv[1])
