"""Event ids: 41 bits of milliseconds, 10 of node, 12 of sequence, as NoETL's applications make them."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EPOCH_MS: Final = 1_704_067_200_000
"""2024-01-01T00:00:00Z."""

_NODES: Final = 1 << 10
_SEQUENCES: Final = 1 << 12
_MAX_MS: Final = 1 << 41


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Snowflake:
    """
    A generator of 63-bit ids, each above the one before it; safe to share between threads.

    Call it for the next id.  When the clock goes back, or 4096 ids were made in one millisecond, it goes on from the
    next millisecond after its last id instead of waiting: it never repeats, never goes back and never hangs.

    Two processes with the same *node* can make the same id.  Give each pod its own (`node_of`), and a forked child a
    generator of its own.

    Args:
        node: 0 to 1023.
        epoch_ms: Unix milliseconds of the id with time 0.
        clock: Unix milliseconds now.

    Raises:
        ValueError: *node* is out of range; when called, the clock is before the epoch or 69 years after it.

    """

    def __init__(self, *, node: int, epoch_ms: int = EPOCH_MS, clock: Callable[[], int] = _wall_clock_ms) -> None:
        if not 0 <= node < _NODES:
            raise ValueError(f"node: {node} is not in 0..{_NODES - 1}")
        self._node = node << 12
        self._epoch_ms = epoch_ms
        self._clock = clock
        self._lock = threading.Lock()
        self._last_ms = -1
        self._sequence = 0

    def __call__(self) -> int:
        """Return the next id."""
        with self._lock:
            ms = self._clock() - self._epoch_ms
            if ms > self._last_ms:
                self._last_ms, self._sequence = ms, 0
            else:
                self._sequence += 1
                if self._sequence == _SEQUENCES:
                    self._last_ms, self._sequence = self._last_ms + 1, 0
            if not 0 <= self._last_ms < _MAX_MS:
                raise ValueError(f"clock: {self._last_ms} ms after the epoch does not fit 41 bits; check the clock")
            return self._last_ms << 22 | self._node | self._sequence


def node_of(worker_id: str, environ: Mapping[str, str]) -> int:
    """
    Return the node of this worker: `NOETL_SNOWFLAKE_NODE_ID`, else `NOETL_SHARD_ID`, else a stable hash of its id.

    With hashes, two of 40 workers share a node more often than not: set one of the variables where workers are many.

    Raises:
        ValueError: the variable is no whole number from 0 to 1023.

    """
    for name in ("NOETL_SNOWFLAKE_NODE_ID", "NOETL_SHARD_ID"):
        if text := environ.get(name):
            if not (text.isascii() and text.isdigit() and int(text) < _NODES):
                raise ValueError(f"{name}: {text!r} is not a whole number from 0 to {_NODES - 1}")
            return int(text)
    return int.from_bytes(hashlib.blake2b(worker_id.encode(), digest_size=8).digest()) % _NODES


@cache
def process_ids(worker_id: str | None = None) -> Snowflake:
    """Return the one generator of *worker_id* in this process, so that its emitters never make the same id."""
    return Snowflake(node=node_of(worker_id or f"{socket.gethostname()}:{os.getpid()}", {}))


def derived_id(stored_ms: int, sequence: int) -> int:
    """
    Return the id of an event that came without one, from the stream's own time (Unix ms) and sequence of its message.

    A redelivery of the message derives the same id.
    """
    return (max(stored_ms - EPOCH_MS, 0) % _MAX_MS) << 22 | sequence % (1 << 22)
