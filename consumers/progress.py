"""What a projector has done since it started, and whether it moves: plain numbers that cost the loop nothing."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from noetl_events.jetstream.delivery import Delivery


class Progress(msgspec.Struct, kw_only=True):
    """
    One projector's numbers.

    Args:
        received: messages delivered to it.
        redelivered: of those, delivered not for the first time.
        stored: events whose destination has them, and which are acknowledged.
        buried_by: dead letters, by kind.
        batches: writes that ended well.
        held_seconds: spent waiting for something that was away.
        holding: what it waits for now, "nats", "sink", "dead_letters" or "trials"; empty when it waits for nothing.
        reason: why, in words.
        pending: messages of the stream behind the last one received, or as the consumer was last asked.
        settled_ns: when the stream stored the last message settled, in Unix nanoseconds; 0 before the first.
        moved: when the loop last got anything done or tried to, by `time.monotonic`.

    """

    received: int = 0
    redelivered: int = 0
    stored: int = 0
    buried_by: Counter[str] = msgspec.field(default_factory=Counter)
    batches: int = 0
    held_seconds: float = 0.0
    holding: str = ""
    reason: str = ""
    pending: int = 0
    settled_ns: int = 0
    moved: float = msgspec.field(default_factory=time.monotonic)

    @property
    def buried(self) -> int:
        """Dead letters, of all kinds."""
        return self.buried_by.total()

    def move(self) -> None:
        """Note that the loop does something."""
        self.moved = time.monotonic()

    def receive(self, messages: int, last: Delivery) -> None:
        """Note so many *messages*, the *last* of which says how many are behind it."""
        self.received += messages
        self.pending = last.pending
        self.move()

    def settle(self, stored: int, last: Delivery) -> None:
        """Note so many events *stored*, up to and with *last*."""
        self.stored += stored
        self.settled_ns = max(self.settled_ns, last.stored_ns)
        self.move()

    def hold(self, part: str, reason: str) -> None:
        """Note that *part* is away."""
        self.holding, self.reason = part, reason
        self.move()

    def resume(self, seconds: float) -> None:
        """Note that it is back, after so many *seconds*."""
        self.holding = self.reason = ""
        self.held_seconds += seconds

    def lag_seconds(self, in_hand: int, now_ns: int) -> float:
        """Return for how long the stream has been ahead: 0 when everything in it is settled."""
        if not self.settled_ns or not (self.pending or in_hand):
            return 0.0
        return max(now_ns - self.settled_ns, 0) / 1e9
