"""
Event ids: 41 bits of milliseconds, 10 of node, 12 of sequence, as NoETL's applications make them.

`RecentIds` remembers the ids of the last events, for destinations that cannot look an event up.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import OrderedDict
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EPOCH_MS: Final = 1_704_067_200_000
"""2024-01-01T00:00:00Z."""

_NODES: Final = 1 << 10
_SEQUENCES: Final = 1 << 12
_MAX_MS: Final = 1 << 41
# Half of the sequences stay free behind the first one, so that a burst does not run ahead of the clock.
_FIRST_SEQUENCES: Final = _SEQUENCES // 2

_beginning = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().update(_beginning=threading.Lock()))


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Snowflake:
    """
    A generator of 63-bit ids, each above the one before it; safe to share between threads and after a fork.

    Call it for the next id.  When the clock goes back, or the sequence of a millisecond is used up, it goes on from the
    next millisecond after its last id instead of waiting: it never repeats, never goes back and never hangs.

    Ten bits of node cannot keep thousands of processes apart.  The sequence of a millisecond therefore does not start
    at 0 but at a number that each process draws for itself, and a forked child draws node and number anew.  Ids of two
    processes may still collide; `noetl_events.identity` says why no event is lost when they do.

    Args:
        node: 0 to 1023; None draws one for each process.
        first_sequence: 0 to 2047, where the sequence of each millisecond starts; None draws one for each process.
        epoch_ms: Unix milliseconds of the id with time 0.
        clock: Unix milliseconds now.

    Raises:
        ValueError: *node* or *first_sequence* is out of range; when called, the clock is before the epoch or 69 years
            after it.

    """

    def __init__(
        self,
        *,
        node: int | None = None,
        first_sequence: int | None = None,
        epoch_ms: int = EPOCH_MS,
        clock: Callable[[], int] = _wall_clock_ms,
    ) -> None:
        if node is not None and not 0 <= node < _NODES:
            raise ValueError(f"node: {node} is not in 0..{_NODES - 1}")
        if first_sequence is not None and not 0 <= first_sequence < _FIRST_SEQUENCES:
            raise ValueError(f"first_sequence: {first_sequence} is not in 0..{_FIRST_SEQUENCES - 1}")
        self._given_node = node
        self._given_first = first_sequence
        self._epoch_ms = epoch_ms
        self._clock = clock
        # Below any time since the epoch, so that a clock before it is refused at the first id.
        self._last_ms = -2
        self._sequence = 0
        self._pid = 0
        self._begin()

    def __call__(self) -> int:
        """Return the next id."""
        if self._pid != os.getpid():
            self._begin()
        with self._lock:
            now, last, sequence = self._clock() - self._epoch_ms, self._last_ms, self._sequence + 1
            if now > last:
                last, sequence = now, self._first
            elif sequence == _SEQUENCES:
                last, sequence = last + 1, self._first
            if not 0 <= last < _MAX_MS:
                raise ValueError(f"clock: {last} ms after the epoch does not fit 41 bits; check the clock")
            # Only now: a clock that was wrong for a moment is no reason to refuse every id that follows.
            self._last_ms, self._sequence = last, sequence
            return last << 22 | self._node | sequence

    def _begin(self) -> None:
        """Draw node and first sequence for this process; a child has those of its parent otherwise."""
        with _beginning:
            if self._pid == os.getpid():
                return
            node = secrets.randbelow(_NODES) if self._given_node is None else self._given_node
            first = secrets.randbelow(_FIRST_SEQUENCES) if self._given_first is None else self._given_first
            self._node = node << 12
            self._first = first
            # Ids of the millisecond of the fork must not go on where the parent goes on: the next one is a new one.
            self._sequence = _SEQUENCES - 1
            # A thread of the parent may have held the old lock at the moment of the fork; in the child it stays locked.
            self._lock = threading.Lock()
            self._pid = os.getpid()


def configured_node(environ: Mapping[str, str]) -> int | None:
    """
    Return the node that `NOETL_SNOWFLAKE_NODE_ID` or else `NOETL_SHARD_ID` sets, or None if neither is set.

    Raises:
        ValueError: the variable is no whole number from 0 to 1023.

    """
    for name in ("NOETL_SNOWFLAKE_NODE_ID", "NOETL_SHARD_ID"):
        if text := environ.get(name):
            if not (text.isascii() and text.isdigit() and int(text) < _NODES):
                raise ValueError(f"{name}: {text!r} is not a whole number from 0 to {_NODES - 1}")
            return int(text)
    return None


@cache
def process_ids() -> Snowflake:
    """
    Return the one generator of this process, so that its emitters and sinks never make the same id.

    Raises:
        ValueError: as `configured_node`.

    """
    return Snowflake(node=configured_node(os.environ))


def derived_id(stored_ms: int, sequence: int) -> int:
    """
    Return the id of an event that came without one, from the stream's own time (Unix ms) and sequence of its message.

    A redelivery of the message derives the same id.
    """
    return (max(stored_ms - EPOCH_MS, 0) % _MAX_MS) << 22 | sequence % (1 << 22)


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
