"""How long to wait before trying again."""

from __future__ import annotations

import random
from itertools import count
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """
    Waits that double, each with jitter so that replicas do not come back together.

    Args:
        initial: seconds of the first wait, at most.
        maximum: seconds of any wait.

    """

    initial: float = 0.2
    maximum: float = 15.0

    def waits(self) -> Iterator[float]:
        """Yield seconds, for ever."""
        for attempt in count():
            limit = min(self.maximum, self.initial * 2.0 ** min(attempt, 60))
            yield random.uniform(limit / 2, limit)
