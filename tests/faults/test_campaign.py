"""
A fault campaign in seconds: the same processes, faults and checks as `make faults`, on one nats-server.

`make faults` runs it for minutes on a cluster of three.  `NOETL_SEED` repeats the faults.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.faults.campaign.campaign import wage
from tests.faults.campaign.fault_plan import Pace, draw
from tests.faults.campaign.report import summary, write
from tests.faults.campaign.system import Shape

if TYPE_CHECKING:
    from pathlib import Path

# These faults are over within a second or two.
KINDS = (
    "publisher killed",
    "projector killed",
    "gateway killed",
    "projector halted",
    "nats-server killed",
    "link to nats cut",
    "link to postgres cut",
    "link to http cut",
    "link to http leads to somebody else",
    "sessions of postgres ended",
    "disk of postgres full",
    "stream full",
    "consumer deleted",
    "credentials revoked",
    "clock jumps",
)
PACE = Pace(gap=(0.15, 0.3), lasting=(0.1, 0.4))


async def test_campaign(tmp_path: Path) -> None:
    """A few random faults at a time under load: no event is lost, invented, duplicated, reordered or changed."""
    seed = int(os.environ.get("NOETL_SEED", random.SystemRandom().randrange(10**6)))
    plan = draw(seed, 1.5, kinds=KINDS, pace=PACE)
    outcome = await wage(tmp_path, plan, seed=seed, shape=Shape(nodes=1, rate=200.0, takeover=1.0, fsync=False))
    write(outcome, tmp_path / "report")

    assert outcome.holds, summary(outcome)
    assert min(outcome.verdict.acknowledged, outcome.verdict.poisoned, outcome.verdict.read) > 0
    assert "polyline" in (tmp_path / "report" / "campaign.svg").read_text()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_plan_of_ten_minutes(seed: int) -> None:
    """A seed always draws the same plan: over a hundred faults of every kind, never two of one part at once."""
    plan = draw(seed, 600)

    assert plan == draw(seed, 600) != draw(seed + 1, 600)
    assert len(plan) >= 100
    assert len({planned.kind for planned in plan}) >= 12
