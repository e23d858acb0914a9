"""What was asked for and has not come yet."""

from __future__ import annotations

import json
from collections import deque
from itertools import count
from typing import Any, Final

EXPIRES: Final = 1.0
"""Seconds a request waits for messages: its end is the sign of life of a quiet server, and who stops waits for it."""

TOO_LARGE: Final = "Exceeds MaxBytes"
"""The next message alone is larger than the bytes that were asked for."""

NO_ROOM: Final = "Exceeded MaxWaiting"
"""As many requests wait as may: others are served, or those that came before this one."""

_MOST_DIGITS: Final = 19
_TIMED_OUT: Final = "408"
# The consumer is there again soon, or is made anew.
_PASSING: Final = ("Consumer Deleted", "Leadership Change", "Server Shutdown")
_ENDED_BY_SIZE: Final = ("Batch Completed", TOO_LARGE)


def pull_request(*, batch: int, max_bytes: int, expires: float, **more: Any) -> bytes:
    """Return the body of a request for up to *batch* messages that ends after so many seconds."""
    return json.dumps({"batch": batch, "max_bytes": max_bytes, "expires": int(expires * 1e9)} | more).encode()


def is_an_ending(status: str, text: str) -> bool:
    """Return whether this is how a request ends after which the next one is still served."""
    return status == _TIMED_OUT or any(ending in text for ending in _ENDED_BY_SIZE)


def is_a_refusal(status: str, text: str) -> bool:
    """Return whether the next request like this one will be refused as well."""
    return status in {"400", "409"} and not any(passing in text for passing in _PASSING)


class PullRequests:
    """
    The pull requests under way.

    The server serves them in the order they were sent, so that a message counts for the oldest, and the end of one is
    the end of all before it: what was lost on the way is not waited for any longer than its request.
    """

    def __init__(self) -> None:
        self._numbers = count(1)
        self._last = 0
        self._open: deque[list[int]] = deque()
        self.outstanding = 0
        """Messages asked for and not received."""

    def __len__(self) -> int:
        return len(self._open)

    def add(self, messages: int) -> int:
        """Note a request for so many *messages*, and return its number."""
        number = self._last = next(self._numbers)
        self._open.append([number, messages])
        self.outstanding += messages
        return number

    def number(self, subject: str) -> int | None:
        """Return the number at the end of *subject*, or None if no request ever had it."""
        text = subject.rpartition(".")[2]
        number = int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else 0
        return number if 0 < number <= self._last else None

    def is_open(self, number: int) -> bool:
        """Return whether request *number* is under way, as far as we know."""
        return bool(self._open) and self._open[0][0] <= number <= self._open[-1][0]

    def receive(self) -> None:
        """Note that a message came."""
        if self._open:
            self.outstanding -= 1
            self._open[0][1] -= 1
            if not self._open[0][1]:
                self._open.popleft()

    def end(self, number: int) -> None:
        """Note that the server has ended request *number*."""
        while self._open and self._open[0][0] <= number:
            self.outstanding -= self._open.popleft()[1]

    def drop(self, number: int) -> None:
        """Note that the server has refused request *number*; those before it are still under way."""
        for request in self._open:
            if request[0] == number:
                self.outstanding -= request[1]
                self._open.remove(request)
                return

    def forget(self) -> None:
        """Note that the server knows of none: a new connection, or another inbox."""
        self._open.clear()
        self.outstanding = 0
