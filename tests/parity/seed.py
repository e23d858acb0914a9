"""
The Rust side: a program with the crate's struct, and its recorded output.

    python -m tests.parity.seed      writes golden/ again

`make parity` builds the program, and the tests then run it; `rust/README.md` lists its requirements.
"""

from __future__ import annotations

import base64
import json
import lzma
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noetl_events import encode
from tests.parity.made import made_events

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

GOLDEN = Path(__file__).parent / "golden"
WRITTEN = GOLDEN / "rust_written.jsonl"
READS = GOLDEN / "reads.json"
MADE = GOLDEN / "rust_made.jsonl.xz"
REREAD = GOLDEN / "python_made.reread.jsonl.xz"
ASKED = GOLDEN / "python_made.sha256"
COUNT = 10_000
PROGRAM = Path(__file__).parents[2] / "build" / "parity" / "target" / "debug" / "seed-parity"


def ask(bodies: Sequence[bytes]) -> list[dict[str, Any]]:
    """Return the crate's result for each of *bodies*, none of which has a line end."""
    done = subprocess.run([PROGRAM, "read"], input=b"\n".join(bodies), capture_output=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def written(count: int, seed: int = 1) -> list[bytes]:
    """Return the wire form of *count* random events, identical for the same *seed*."""
    return [encode(event) for event in made_events(count, seed)]


def digest(bodies: Iterable[bytes]) -> str:
    """Return a digest of these *bodies*."""
    return sha256(b"\n".join(bodies)).hexdigest()


def unpacked(path: Path) -> list[bytes]:
    """Return the lines of a packed golden file."""
    return lzma.decompress(path.read_bytes()).splitlines()


def main() -> None:
    """Write the golden files."""
    from tests.parity.cases import CASES  # noqa: PLC0415  (the tests import this module first)

    GOLDEN.mkdir(exist_ok=True)
    WRITTEN.write_bytes(subprocess.run([PROGRAM, "write"], capture_output=True, check=True).stdout)
    verdicts = {}
    for name, (body, _) in CASES.items():
        [answer] = ask([body]) or [{"ok": False, "error": "empty"}]
        verdicts[name] = {"body": base64.b64encode(body).decode(), "ok": answer["ok"], "error": answer.get("error")}
    READS.write_text(json.dumps(verdicts, indent=1) + "\n")
    made = subprocess.run([PROGRAM, "make", str(COUNT)], capture_output=True, check=True).stdout
    MADE.write_bytes(lzma.compress(made, preset=9))
    bodies = written(COUNT)
    ASKED.write_text(digest(bodies) + "\n")
    answers = subprocess.run([PROGRAM, "read"], input=b"\n".join(bodies), capture_output=True, check=True).stdout
    REREAD.write_bytes(lzma.compress(answers, preset=9))


if __name__ == "__main__":
    main()
