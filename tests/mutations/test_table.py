"""The table of planted bugs matches the present code; `make mutations` plants them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.campaign.fault_plan import draw
from tests.mutations.plant import SEED
from tests.mutations.table import MUTATIONS

if TYPE_CHECKING:
    from tests.mutations.mutation import Mutation

ROOT = Path(__file__).parents[2]
# Each kind of fault is needed to find some bug.
NEEDED = {
    "publisher killed",
    "projector killed",
    "gateway killed",
    "postgres stopped in order",
    "sessions of postgres ended",
    "disk of postgres full",
    "link to http leads to somebody else",
    "stream created anew",
    "clock jumps",
}


@pytest.mark.parametrize("mutation", [pytest.param(each, id=each.bug) for each in MUTATIONS])
def test_bug_can_be_planted(mutation: Mutation) -> None:
    """The original text is unique in its file, and the test that finds the bug exists."""
    file, *names = mutation.test.split("::")

    assert (ROOT / mutation.file).read_text().count(mutation.code) == 1
    assert all(f" {name}(" in (ROOT / file).read_text() or f" {name}:" in (ROOT / file).read_text() for name in names)


def test_campaign_of_a_minute_has_what_bugs_need() -> None:
    """A new kind of fault changes the plan of every seed: draw until one has all needed kinds."""
    assert {planned.kind for planned in draw(SEED, 60)} >= NEEDED
