"""`make faults`: a campaign of a given number of minutes, drawn from a seed."""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.faults.campaign.campaign import wage
from tests.faults.campaign.fault_plan import draw
from tests.faults.campaign.report import summary, write
from tests.faults.campaign.system import Shape


def main() -> int:
    """Run, write the report, print the verdict; exit code 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="make faults", description="Harm everything, and see that no event is lost.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=100.0, help="events a second of each of the three workers")
    parser.add_argument("--out", type=Path, default=Path("build/faults"))
    asked = parser.parse_args()
    sys.stdout.write(f"seed {asked.seed}\n")
    sys.stdout.flush()
    plan = draw(asked.seed, asked.minutes * 60)
    out = asked.out / str(asked.seed)
    # A Postgres that runs as another user cannot enter a folder of root's.
    folder = Path(tempfile.mkdtemp(prefix=f"noetl-faults-{asked.seed}-"))
    outcome = asyncio.run(wage(folder, plan, seed=asked.seed, shape=Shape(rate=asked.rate)))
    write(outcome, out)
    sys.stdout.write(f"{summary(outcome)}\nreport: {out / 'report.md'}\n")
    if outcome.holds:
        shutil.rmtree(folder)
        return 0
    sys.stdout.write(f"logs and data: {folder}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
