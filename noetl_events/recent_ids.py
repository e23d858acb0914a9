"""The ids a sink has seen lately, for destinations that cannot look an event up."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

CAPACITY: Final = 65_536
"""Several times what a redelivery or a retry brings back, in some 8 MiB of memory."""


class RecentIds:
    """A set of event ids that forgets the oldest of more than *capacity*, in the order they were first added."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        # Not a plain dict: that one steps over all it has deleted since it last grew to find its first key.
        self._ids: OrderedDict[int, None] = OrderedDict()

    def add(self, event_id: int) -> None:
        """Remember *event_id*; one that is known keeps its place."""
        self._ids[event_id] = None
        if len(self._ids) > self._capacity:
            self._ids.popitem(last=False)

    def __contains__(self, event_id: int) -> bool:
        return event_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)
