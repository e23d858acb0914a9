"""
The progress of a projector: counts, lag, and signs of life, as plain numbers that cost the loop nothing.

A histogram has a fixed number of buckets, so a hundred million values take no more room than a single one.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from noetl_events.jetstream.message import Delivery

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
EVENTS: Final = (1.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0)


class Histogram:
    """
    Counts of values.

    Args:
        bounds: the largest value of each bucket, ascending; one more bucket takes what is larger.

    """

    def __init__(self, bounds: Iterable[float]) -> None:
        self.sum = 0.0
        """Of all values."""

        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)

    def add(self, value: float) -> None:
        """Count *value*."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return each bound and how many values are not above it, as Prometheus wants them."""
        bounds = map(str, chain(self._bounds, ["+Inf"]))
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True))


PARTS: Final = ("nats", "consumer", "sink", "dead_letters", "trials")
"""What a projector may have to wait for."""


class Progress(msgspec.Struct, kw_only=True):
    """
    One projector's numbers.

    Args:
        received: messages delivered to it.
        redelivered: of those, delivered not for the first time.
        stored: events whose destination has them, and which are acknowledged.
        markers: messages that no publisher wrote, as the server's delete markers, acknowledged.
        buried_by: dead letters, by kind.
        refused: requests for messages that the server refused, and would refuse again.
        skipped: messages that were for another consumer, acknowledged and not stored.
        passed_over: messages that the consumer had passed over, and delivered after it was set back.
        batches: writes that ended well.
        batch_events: how many events they had.
        write_seconds: how long they took.
        held_seconds: spent waiting for something that was away, and is back.
        holding: which of the `PARTS` is away now; empty when none is.
        reason: why, in words.
        holding_since: since when, by `time.monotonic`.
        attempting: which of them it waits for an answer from now; "nats" also while no message comes.
        pending: messages of the stream that were not delivered when that was last noted.
        pending_behind: the sequence of the last one delivered then.
        settled_ns: when the stream stored the last message settled, in Unix nanoseconds; 0 before the first.
        oldest_ns: likewise, of the oldest message not settled when that was last looked up; 0 if there was none.
        moved: when the loop last got anything done or tried to, by `time.monotonic`.
        resting_until: when it tries again what is away, by the same clock.

    """

    received: int = 0
    redelivered: int = 0
    stored: int = 0
    markers: int = 0
    buried_by: Counter[str] = msgspec.field(default_factory=Counter)
    refused: int = 0
    skipped: int = 0
    passed_over: int = 0
    batches: int = 0
    batch_events: Histogram = msgspec.field(default_factory=lambda: Histogram(EVENTS))
    write_seconds: Histogram = msgspec.field(default_factory=lambda: Histogram(SECONDS))
    held_seconds: float = 0.0
    holding: str = ""
    reason: str = ""
    holding_since: float = 0.0
    attempting: str = ""
    pending: int = 0
    pending_behind: int = 0
    settled_ns: int = 0
    oldest_ns: int = 0
    moved: float = msgspec.field(default_factory=time.monotonic)
    resting_until: float = 0.0

    @property
    def buried(self) -> int:
        """Dead letters, of all kinds."""
        return self.buried_by.total()

    def begin(self) -> None:
        """Note that another projector goes on with these numbers: the counts stay, where it stood does not."""
        self.holding = self.reason = self.attempting = ""
        self.pending = self.pending_behind = self.settled_ns = self.oldest_ns = 0
        self.move()

    def move(self) -> None:
        """Note that the loop does something."""
        self.moved = time.monotonic()

    def receive(self, messages: int, last: Delivery) -> None:
        """Note so many *messages*, and how many are behind the *last* one delivered."""
        self.received += messages
        self.note_pending(last.pending, behind=last.sequence)
        self.move()

    def note_pending(self, messages: int, *, behind: int) -> None:
        """Note that so many *messages* were not delivered yet when the last one delivered was that of *behind*."""
        self.pending, self.pending_behind = messages, behind

    def settle(self, stored: int, last: Delivery) -> None:
        """Note so many events *stored*, up to and with *last*."""
        self.stored += stored
        self.settled_ns = max(self.settled_ns, last.stored_ns)
        self.move()

    def write(self, events: int, seconds: float) -> None:
        """Note a write of so many *events* that took so many *seconds*."""
        self.batches += 1
        self.batch_events.add(events)
        self.write_seconds.add(seconds)

    def hold(self, part: str, reason: str, rest: float) -> None:
        """Note that *part* is away, and tried again after a *rest* of so many seconds."""
        self.move()
        if not self.holding:
            self.holding_since = self.moved
        self.holding, self.reason = part, reason
        self.resting_until = self.moved + rest

    def resume(self) -> float:
        """Note that it is back, and return after how many seconds."""
        seconds = time.monotonic() - self.holding_since
        self.holding = self.reason = ""
        self.held_seconds += seconds
        return seconds

    def held(self, now: float) -> float:
        """Return `held_seconds` with those of what is still away at *now*."""
        return self.held_seconds + (now - self.holding_since if self.holding else 0.0)

    def lag_seconds(self, *, oldest_ns: int, now_ns: int) -> float:
        """
        Return for how long the stream has been ahead at *now_ns*: 0 when everything in it is settled.

        That is the age of the oldest message in hand, which the stream stored at *oldest_ns*.  With none in hand, 0,
        and some pending, these are younger than the last one settled, and not older than the oldest one when that was
        last looked up, if it was.
        """
        since = oldest_ns or (max(self.settled_ns, self.oldest_ns) if self.pending else 0)
        return max(now_ns - since, 0) / 1e9 if since else 0.0
