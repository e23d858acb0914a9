"""The corpus, and a few thousand inputs made from it; `make fuzz MINUTES=60` runs longer."""

from __future__ import annotations

import pytest

from tests.fuzz.fuzz import CORPUS, fuzz
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    """Every input of the corpus is accepted or refused as promised."""
    outcomes = {TARGETS[name](path.read_bytes()) for path in CORPUS.iterdir()}

    assert len(outcomes) > 5


def test_a_few_thousand() -> None:
    """No input made from the corpus breaks a promise."""
    _, found = fuzz(1, most=2_000)

    assert found == {}
