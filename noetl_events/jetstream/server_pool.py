"""
Which server is tried next, and when.

A server that was tried is not tried again before a wait that doubles with each failure, with jitter.  So a list with a
server that is gone costs nothing but its timeout, and thousands of workers do not come back in the same second.  A
connection that ended within ten seconds is a failure too: what a server closes because of what we do right after we
connect, it will close again.

Servers that others have told of (INFO, `connect_urls`) may have addresses that cannot be reached from here.  Each is
tried between two tries of those that were configured, never more often.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from urllib.parse import ParseResult

    from noetl_events.jetstream.server_urls import ServerUrl

_FIRST_WAIT: Final = 0.1
_LONGEST_AWAY: Final = 5.0
_LONGEST_REFUSED: Final = 15.0

LASTING: Final = 10.0
"""Seconds after which a connection counts as one that is good."""


class Candidate(Protocol):
    """A server as nats-py knows it."""

    @property
    def uri(self) -> ParseResult:
        """Where it is."""


C = TypeVar("C", bound=Candidate)


class ServerPool:
    """
    The servers of one connection.

    Args:
        servers: that were configured.

    """

    def __init__(self, servers: Sequence[ServerUrl]) -> None:
        self._servers = servers
        self._own = {server.address for server in servers}
        self._failures: dict[str, int] = {}
        self._tried: dict[str, float] = {}
        self._last = ""
        self._connected_at: float | None = None
        self._rounds = 0
        self._next_round = 0.0
        self._is_refused = False

    @property
    def is_lasting(self) -> bool:
        """Whether the connection there is has been there for a while."""
        return self._connected_at is not None and time.monotonic() - self._connected_at >= LASTING

    @property
    def rest(self) -> float:
        """Seconds until the servers may be tried, by a client that has no connection to lose."""
        return max(self._next_round - time.monotonic(), 0.0)

    def round(self) -> list[ServerUrl]:
        """Return the configured servers, in the order in which a new client tries each once."""
        return random.sample(self._servers, len(self._servers))

    def connected(self) -> None:
        """Note that a server has taken us."""
        self._connected_at = time.monotonic()

    def failed(self, *, is_refused: bool) -> None:
        """Note that a whole round has failed; *is_refused* if a server was there, and did not take us."""
        self._is_refused = is_refused
        self._rounds += 1
        # The first wait is none: whatever it was, the next try may be good.
        wait = _wait(self._rounds - 1, longest=self._longest) if self._rounds > 1 else 0.0
        self._next_round = time.monotonic() + wait

    def lost(self, *, is_refused: bool) -> None:
        """Note that the connection has ended; *is_refused* if the server said why it has closed it."""
        if self._connected_at is None:
            return
        was_lasting, self._connected_at, self._last = self.is_lasting, None, ""
        if was_lasting:
            self._failures.clear()
            self._tried.clear()
            self._rounds, self._next_round, self._is_refused = 0, 0.0, False
        if is_refused or not was_lasting:
            self.failed(is_refused=is_refused)

    def choose(self, candidates: Iterable[C]) -> tuple[C, float]:
        """Return which of *candidates* a client that has lost its connection tries next, and after how many seconds."""
        # The order of the tries decides, not their times: two tries can have the same time.
        turns = {address: turn for turn, address in enumerate(self._tried)}
        in_turn = sorted(candidates, key=lambda candidate: (turns.get(candidate.uri.netloc, -1), random.random()))
        own = [candidate for candidate in in_turn if candidate.uri.netloc in self._own]
        discovered = [candidate for candidate in in_turn if candidate.uri.netloc not in self._own]
        chosen = (discovered if discovered and (self._last in self._own or not own) else own)[0]
        address, now = chosen.uri.netloc, time.monotonic()
        failures = self._failures.get(address, 0)
        began = self._tried.pop(address, now)
        wait = max(began + _wait(failures, longest=self._longest) - now, 0.0)
        self._failures[address], self._tried[address], self._last = failures + 1, now + wait, address
        return chosen, wait

    @property
    def _longest(self) -> float:
        return _LONGEST_REFUSED if self._is_refused else _LONGEST_AWAY


def _wait(failures: int, *, longest: float) -> float:
    limit = min(longest, _FIRST_WAIT * 2.0 ** min(failures, 10))
    return random.uniform(0 if failures == 0 else limit / 2, limit)
