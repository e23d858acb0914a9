"""What was asked for and has not come yet."""

from __future__ import annotations

import json
from collections import deque
from itertools import count
from typing import Any, Final

EXPIRES: Final = 30.0
"""Seconds a request waits for messages, unless it has to come more often."""

HEARTBEAT: Final = 5.0
"""Seconds between two signs of life of the server while a request waits, at most."""


def pull_request(*, batch: int, max_bytes: int, expires: float, **more: Any) -> bytes:
    """Return the body of a request for up to *batch* messages; one that expires after 0 seconds does not wait."""
    waiting = {"expires": _ns(expires), "idle_heartbeat": _ns(min(HEARTBEAT, expires / 3))}
    return json.dumps(
        {"batch": batch, "max_bytes": max_bytes} | (waiting if expires else {"no_wait": True}) | more
    ).encode()


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


class PullRequests:
    """
    The pull requests under way.

    The server serves them in the order they were sent, so that a message counts for the oldest, and the end of one is
    the end of all before it: what was lost on the way is not waited for any longer than its request.
    """

    def __init__(self) -> None:
        self._numbers = count(1)
        self._open: deque[list[int]] = deque()
        self.outstanding = 0
        """Messages asked for and not received."""

        self.received = 0
        """Messages that came."""

    def __len__(self) -> int:
        return len(self._open)

    def add(self, messages: int) -> int:
        """Note a request for so many *messages*, and return its number."""
        number = next(self._numbers)
        self._open.append([number, messages])
        self.outstanding += messages
        return number

    def receive(self) -> None:
        """Note that a message came."""
        self.received += 1
        if self._open:
            self.outstanding -= 1
            self._open[0][1] -= 1
            if not self._open[0][1]:
                self._open.popleft()

    def end(self, number: int) -> None:
        """Note that the server has ended request *number*."""
        while self._open and self._open[0][0] <= number:
            self.outstanding -= self._open.popleft()[1]

    def forget(self) -> None:
        """Note that the server knows of none: a new connection, or another inbox."""
        self._open.clear()
        self.outstanding = 0
