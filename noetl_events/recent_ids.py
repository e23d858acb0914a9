"""The events a sink has seen lately, for destinations that cannot look an event up."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

CAPACITY: Final = 65_536
"""Several times what a redelivery or a retry brings back, in some 12 MiB of memory."""


class RecentIds(OrderedDict[bytes, None]):
    """
    A set of message ids that forgets the oldest of more than *capacity*, in the order they were first added.

    `noetl_events.identity` says what a message id is.
    A plain dict would step over all it has deleted since it last grew to find its first key.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        super().__init__()
        self._capacity = capacity

    def add(self, message_id: bytes) -> None:
        """Remember *message_id*; one that is known keeps its place."""
        self[message_id] = None
        if len(self) > self._capacity:
            self.popitem(last=False)
