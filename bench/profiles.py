"""
Where the time of our three hot paths goes, and what bounds each.

    python -m bench.profiles [--seconds 20]

Watches `bench.hot_paths` from outside with py-spy, which samples its stacks, those of C too, and has to be allowed to:
root is.  For each path: how busy each process is, 100 % being one core, and in which library or file of ours the
samples were that found our process at work.  A sample belongs to the innermost of these.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from bench.hot_paths import PATHS, READY

_PY_SPY = Path(sysconfig.get_path("scripts")) / "py-spy"
_SHOWN = 10
# py-spy halts the process to look at its stacks: more often than that, it is what it measures.
_RATE = 50
# Everything but the end, when the servers are stopped.
_RUNNING = "(asyncio/runners.py"
_FRAME = re.compile(r"\((?P<file>[^()]+?)(?::\d+)?\)$")
_OURS = ("noetl_events", "consumers")
_LIBRARIES = {
    "nats": "nats-py",
    "msgspec": "msgspec",
    "asyncpg": "asyncpg",
    "asyncio": "asyncio",
    "structlog": "structlog",
}
_SOURCES = {"socketmodule.c": "sockets", "selectmodule.c": "sockets", "_asynciomodule.c": "asyncio"}


def watch(path: str, seconds: float, samples: Path) -> dict[str, Any]:
    """
    Walk *path* under the eyes of py-spy and return what was walked.

    Raises:
        SystemExit: one of the two failed.

    """
    walk = [sys.executable, "-m", "bench.hot_paths", path, "--seconds", str(seconds)]
    spy = [_PY_SPY, "record", "--native", "--rate", str(_RATE), "--duration", "9999"]
    with subprocess.Popen(walk, stdout=subprocess.PIPE, text=True) as walking:
        output = iter(walking.stdout or ())
        if next(output, "") != READY:
            raise SystemExit(f"{path}: the walk failed")
        into = ["--pid", str(walking.pid), "--format", "raw", "--output", str(samples)]
        spied = subprocess.run([*spy, *into], capture_output=True, text=True, check=False)
        walked = next(output, "")
    if spied.returncode or not walked:
        raise SystemExit(f"{path}: {spied.stderr[-2000:]}")
    result: dict[str, Any] = msgspec.json.decode(walked)
    return result


def owners(samples: Path) -> Counter[str]:
    """Return how many samples each owner has."""
    found: Counter[str] = Counter()
    for line in samples.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        if _RUNNING in stack:
            found[owner_of(stack.split(";"))] += int(count)
    return found


def owner_of(frames: list[str]) -> str:
    """Return the innermost owner of a stack, whose frames read `function (file:line)`, outermost first."""
    for frame in reversed(frames):
        match = _FRAME.search(frame)
        if match and (owner := _owner(Path(match["file"]))):
            return owner
    return "Python"


def _owner(file: Path) -> str | None:
    top = file.parts[0]
    return str(file) if top in _OURS else _LIBRARIES.get(top) or _SOURCES.get(file.name)


def main() -> None:
    """Read the arguments, watch each path, print what is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    for path in PATHS:
        with tempfile.TemporaryDirectory() as folder:
            samples = Path(folder) / "samples"
            walked = watch(path, arguments.seconds, samples)
            found = owners(samples)
        busy = {name: 100 * used / walked["seconds"] for name, used in walked["cpu"].items()}
        print(f"{path}: {walked['events'] / walked['seconds']:,.0f} events/s while watched; busy: ", end="")
        print(", ".join(f"{name} {share:.0f} %" for name, share in busy.items() if share >= 1))
        for owner, count in found.most_common(_SHOWN):
            print(f"  {count / found.total():6.1%}  {owner}")


if __name__ == "__main__":
    main()
