"""
Event ids: 41 bits of milliseconds, 10 of node and 12 of sequence, as in NoETL's applications.

`RecentIds` stores the ids of the last events, for destinations that cannot look up an event.
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
"""Epoch of the ids: 2024-01-01T00:00:00Z in Unix milliseconds."""

_NODES: Final = 1 << 10
_SEQUENCES: Final = 1 << 12
_MAX_MS: Final = 1 << 41
# The first sequence leaves at least half of the sequences for a burst, so that its ids stay close to the clock.
_FIRST_SEQUENCES: Final = _SEQUENCES // 2

_beginning = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().update(_beginning=threading.Lock()))


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Snowflake:
    """
    A generator of 63-bit ids, each above the one before it; safe to share between threads and after a fork.

    A call returns the next id.  If the clock goes back, or the sequence of a millisecond is used up, the generator
    continues in the millisecond after its last id instead of waiting, so it never repeats an id and never blocks.

    Ten bits of node cannot distinguish thousands of processes.  So the sequence of a millisecond does not start at 0,
    but at a random number of each process, and a forked child draws a new node and number.  Ids of two processes may
    still collide; `noetl_events.identity` explains why no event is lost then.

    Args:
        node: node from 0 to 1023; None draws one for each process.
        first_sequence: start of the sequence in each millisecond, 0 to 2047; None draws one for each process.
        epoch_ms: Unix milliseconds of the id with time 0.
        clock: function that returns the current Unix milliseconds.

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
        # Lower than any time since the epoch, so a clock before the epoch fails at the first id.
        self._last_ms = -2
        self._sequence = 0
        self._pid = 0
        self._start()

    def __call__(self) -> int:
        """Return the next id."""
        if self._pid != os.getpid():
            self._start()
        with self._lock:
            now, last, sequence = self._clock() - self._epoch_ms, self._last_ms, self._sequence + 1
            if now > last:
                last, sequence = now, self._first
            elif sequence == _SEQUENCES:
                last, sequence = last + 1, self._first
            if not 0 <= last < _MAX_MS:
                raise ValueError(f"clock: {last} ms after the epoch does not fit 41 bits; check the clock")
            # Stored only after the check, so that a clock that was wrong for a moment does not break later ids.
            self._last_ms, self._sequence = last, sequence
            return last << 22 | self._node | sequence

    def _start(self) -> None:
        """Draw node and first sequence for this process, because a forked child inherits those of its parent."""
        with _beginning:
            if self._pid == os.getpid():
                return
            node = secrets.randbelow(_NODES) if self._given_node is None else self._given_node
            first = secrets.randbelow(_FIRST_SEQUENCES) if self._given_first is None else self._given_first
            self._node = node << 12
            self._first = first
            # In the millisecond of the fork, the child must not continue the parent's sequence, so use the next one.
            self._sequence = _SEQUENCES - 1
            # Another thread of the parent may have held the lock during the fork, which would never be released here.
            self._lock = threading.Lock()
            self._pid = os.getpid()


def configured_node(environ: Mapping[str, str]) -> int | None:
    """
    Return the node in `NOETL_SNOWFLAKE_NODE_ID`, else in `NOETL_SHARD_ID`, or None if neither is set.

    Raises:
        ValueError: the variable is not a whole number from 0 to 1023.

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
    Return the generator shared by this process, so that its emitters and sinks never create the same id.

    Raises:
        ValueError: as `configured_node`.

    """
    return Snowflake(node=configured_node(os.environ))


def derived_id(stored_ms: int, sequence: int) -> int:
    """
    Return an id for an event without one, from the stream's time (Unix milliseconds) and sequence of its message.

    A redelivery of the message derives the same id.
    """
    return (max(stored_ms - EPOCH_MS, 0) % _MAX_MS) << 22 | sequence % (1 << 22)


CAPACITY: Final = 65_536
"""Number of ids, several times those of a redelivery or retry; they take about 12 MiB of memory."""


class RecentIds(OrderedDict[bytes, None]):
    """
    A set of message ids (see `noetl_events.identity`) that drops the oldest beyond *capacity*, in order of addition.

    A plain dict would be slower: to find its first key it scans all entries deleted since it last grew.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        super().__init__()
        self._capacity = capacity

    def add(self, message_id: bytes) -> None:
        """Add *message_id*; a known one keeps its position."""
        self[message_id] = None
        if len(self) > self._capacity:
            self.popitem(last=False)
