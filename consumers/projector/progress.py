"""
The progress of a projector: counters, lag and times of activity, as plain numbers that cost the loop nothing.

A histogram has a fixed number of buckets, so its size does not depend on the number of values.
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
    A histogram: the number of values per bucket.

    Args:
        bounds: upper bounds of the buckets, ascending; a last bucket has none.

    """

    def __init__(self, bounds: Iterable[float]) -> None:
        self.sum = 0.0
        """Sum of all values."""

        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)

    def add(self, value: float) -> None:
        """Count *value*."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return each bound and the number of values up to it, as Prometheus expects."""
        bounds = map(str, chain(self._bounds, ["+Inf"]))
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True))


PARTS: Final = ("nats", "consumer", "sink", "dead_letters", "trials")
"""The dependencies that a projector may have to wait for."""


class Progress(msgspec.Struct, kw_only=True):
    """
    The numbers of one projector.

    Args:
        received: number of messages delivered.
        redelivered: number of these that were redeliveries.
        stored: number of events stored in the destination and acknowledged.
        markers: number of messages written by the server, such as delete markers.
        dead_letters_by_kind: number of dead letters, by kind.
        refused: number of pull requests that the server refused permanently.
        skipped: number of messages for another consumer, acknowledged and not stored.
        passed_over: number of messages that the consumer skipped and delivered after a reset.
        batches: number of successful writes.
        batch_events: events per write.
        write_seconds: duration of a write.
        held_seconds: seconds of the outages that have ended.
        holding: one of `PARTS` that is unavailable now; empty if there is none.
        reason: reason of the outage, in words.
        holding_since: start of the outage, by `time.monotonic`.
        waiting_for: one of `PARTS` that a call is waiting for; "nats" also while the stream has no new message.
        pending: number of undelivered messages of the stream, when last read.
        pending_as_of: stream sequence of the last message delivered at that time.
        settled_ns: time at which the stream stored the last message acknowledged, in Unix nanoseconds; 0 before the
            first.
        oldest_ns: the same time of the oldest message not acknowledged, when last read; 0 if there was none.
        last_activity: last activity of the loop, including a failed attempt, by `time.monotonic`.
        retry_at: time of the next attempt, by the same clock.

    """

    received: int = 0
    redelivered: int = 0
    stored: int = 0
    markers: int = 0
    dead_letters_by_kind: Counter[str] = msgspec.field(default_factory=Counter)
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
    waiting_for: str = ""
    pending: int = 0
    pending_as_of: int = 0
    settled_ns: int = 0
    oldest_ns: int = 0
    last_activity: float = msgspec.field(default_factory=time.monotonic)
    retry_at: float = 0.0

    @property
    def dead_letters(self) -> int:
        """Number of dead letters of all kinds."""
        return self.dead_letters_by_kind.total()

    def reset(self) -> None:
        """Reset the state and keep the counters, for a new projector of the same consumer."""
        self.holding = self.reason = self.waiting_for = ""
        self.pending = self.pending_as_of = self.settled_ns = self.oldest_ns = 0
        self.record_activity()

    def record_activity(self) -> None:
        """Record activity of the loop."""
        self.last_activity = time.monotonic()

    def receive(self, messages: int, last: Delivery) -> None:
        """Record received *messages*, and the number pending behind the *last* one delivered."""
        self.received += messages
        self.set_pending(last.pending, as_of=last.sequence)
        self.record_activity()

    def set_pending(self, messages: int, *, as_of: int) -> None:
        """Record that *messages* were pending behind the last one delivered, of sequence *as_of*."""
        self.pending, self.pending_as_of = messages, as_of

    def settle(self, stored: int, last: Delivery) -> None:
        """Record *stored* events, and *last* as the last message acknowledged."""
        self.stored += stored
        self.settled_ns = max(self.settled_ns, last.stored_ns)
        self.record_activity()

    def write(self, events: int, seconds: float) -> None:
        """Record a write of *events* that took *seconds*."""
        self.batches += 1
        self.batch_events.add(events)
        self.write_seconds.add(seconds)

    def hold(self, part: str, reason: str, wait: float) -> None:
        """Record that *part* is unavailable and retried after *wait* seconds."""
        self.record_activity()
        if not self.holding:
            self.holding_since = self.last_activity
        self.holding, self.reason = part, reason
        self.retry_at = self.last_activity + wait

    def resume(self) -> float:
        """Record the end of an outage, and return its seconds."""
        seconds = time.monotonic() - self.holding_since
        self.holding = self.reason = ""
        self.held_seconds += seconds
        return seconds

    def held(self, now: float) -> float:
        """Return `held_seconds` plus the seconds of the current outage at *now*."""
        return self.held_seconds + (now - self.holding_since if self.holding else 0.0)

    def lag_seconds(self, *, oldest_ns: int, now_ns: int) -> float:
        """
        Return the lag in seconds at *now_ns*: 0 if every message of the stream is acknowledged.

        The lag is the age of the oldest message in flight, which the stream stored at *oldest_ns*.  If no message is in
        flight, *oldest_ns* is 0.  A pending message is then not older than the last acknowledged one, nor than the
        oldest one when that was last read, so the later of these two times is used.
        """
        since = oldest_ns or (max(self.settled_ns, self.oldest_ns) if self.pending else 0)
        return max(now_ns - since, 0) / 1e9 if since else 0.0
