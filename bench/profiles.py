"""
The time spent in the three hot paths, and the limit of each.

    python -m bench.profiles [--seconds 20]

Samples the stacks of `bench.hot_paths`, including C, with py-spy, which needs root or an equivalent permission.  For
each path: the load of each process, 100 % being one core, and the libraries and project files of the samples in which
the process was running.  A sample belongs to the innermost of these.
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
# py-spy halts the process for each sample, so a higher rate would measure py-spy itself.
_RATE = 50
# This is everything except the end, when the servers are stopped.
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
    Run *path* under py-spy and return its counts.

    Raises:
        SystemExit: the path or py-spy failed.

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
    """Return the number of samples of each owner."""
    found: Counter[str] = Counter()
    for line in samples.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        if _RUNNING in stack:
            found[owner_of(stack.split(";"))] += int(count)
    return found


def owner_of(frames: list[str]) -> str:
    """Return the innermost owner of a stack with frames as `function (file:line)`, outermost first."""
    for frame in reversed(frames):
        match = _FRAME.search(frame)
        if match and (owner := _owner(Path(match["file"]))):
            return owner
    return "Python"


def _owner(file: Path) -> str | None:
    top = file.parts[0]
    return str(file) if top in _OURS else _LIBRARIES.get(top) or _SOURCES.get(file.name)


def main() -> None:
    """Read the arguments, sample each path, print the results."""
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
