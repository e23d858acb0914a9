"""
NATS servers: the URLs that name them, and the order in which a connection tries them.

    nats://[user[:password]@]host[:port][,...]

The scheme is `nats`, `tls`, `ws` or `wss`.  Further servers stand behind commas: whole URLs, or hosts that take scheme,
user and password of the one before.  A user alone is a token.  User and password are percent-decoded, as every client
of NATS does it: a `@` in a password is written `%40`.

URLs are read in the same way in settings, in options and in sink URLs.

A server that was tried is not tried again before a wait that doubles with each failure, with jitter.  So a list with a
server that is gone costs nothing but its timeout, and thousands of workers do not come back in the same second.  A
connection that ended within ten seconds is a failure too: a server that closes it because of a request that follows
each connection will close the next one as well.

Servers that another server has announced (INFO, `connect_urls`) may have addresses that cannot be reached from here.
Each is tried between two tries of the configured servers, never more often.
"""

from __future__ import annotations

import random
import re
import time
from typing import TYPE_CHECKING, Final, Protocol, TypeVar
from urllib.parse import unquote

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from urllib.parse import ParseResult

_PORTS: Final = {"nats": 4222, "tls": 4222, "ws": 80, "wss": 443}
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^\[\]:/?#@\s,%]+)(?::([0-9]{1,5}))?")
_LONE_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_RESERVED: Final = re.compile(r"[/?#\s]")
_MOST_PORT: Final = 65_535
_HINT: Final = "in a user or password % is written %25, @ %40, : %3A, / %2F, ? %3F, # %23, and a comma %2C"


class ServerUrl(msgspec.Struct, frozen=True, kw_only=True):
    """
    One server, and what its URL says of the user.

    Args:
        scheme: "nats", "tls", "ws" or "wss".
        host: a name or an address; an IPv6 address without brackets.
        port: of the server.
        path: behind the host, of a websocket; else empty.
        user: decoded; None without one.
        password: decoded; None without one.
        token: decoded; None without one.

    """

    scheme: str
    host: str
    port: int
    path: str = ""
    user: str | None = None
    password: str | None = None
    token: str | None = None

    def __str__(self) -> str:
        """Show where the server is, and nothing of the user."""
        return f"{self.scheme}://{self.address}{self.path}"

    __repr__ = __str__

    @property
    def address(self) -> str:
        """Host and port, as they stand in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_websocket(self) -> bool:
        """Whether NATS is spoken through a websocket there."""
        return self.scheme in ("ws", "wss")

    @property
    def has_user(self) -> bool:
        """Whether the URL names a user or a token."""
        return self.user is not None or self.token is not None


def read_servers(text: str) -> tuple[ServerUrl, ...]:
    """
    Return the servers that *text* names, in its order.

    Raises:
        ValueError: one of them is no URL of NATS, or they do not go together; nothing behind `://` and before the last
            `@` is shown.

    """
    servers: list[ServerUrl] = []
    for part in text.split(","):
        try:
            servers.append(_read(part.strip(), servers[-1] if servers else None))
        except ValueError as exc:
            hint = f"; {_HINT}" if "@" in text else ""
            raise ValueError(f"servers: {redacted(text)!r} {exc}{hint}") from None
    schemes = {server.scheme for server in servers}
    if len(schemes) > 1 and schemes != {"nats", "tls"}:
        raise ValueError(f"servers: {redacted(text)!r} mixes {', '.join(sorted(schemes))}; give servers of one scheme")
    return tuple(servers)


def _read(url: str, before: ServerUrl | None) -> ServerUrl:
    scheme, separator, rest = url.partition("://")
    if not separator and before is not None:
        scheme, rest = before.scheme, url
    if scheme not in _PORTS or not (separator or before):
        raise ValueError("is not a NATS URL such as nats://host:4222")
    who, at, place = rest.rpartition("@")
    if _RESERVED.search(who) or _LONE_PERCENT.search(who):
        raise ValueError("has a user or password that is not percent-encoded")
    host, slash, path = place.partition("/")
    match = _HOST.fullmatch(host)
    if match is None and place.count(":") > 1 and "[" not in place:
        raise ValueError("is not a NATS URL; an IPv6 address stands in brackets, as nats://[::1]:4222")
    if match is None or (slash and path and scheme in ("nats", "tls")):
        raise ValueError("is not a NATS URL such as nats://host:4222")
    port = int(match[2] or _PORTS[scheme])
    if not 0 < port <= _MOST_PORT:
        raise ValueError(f"is not a NATS URL such as nats://host:4222; {port} is no port")
    server = ServerUrl(scheme=scheme, host=match[1].strip("[]"), port=port, path=f"/{path}" if path else "")
    if at:
        return msgspec.structs.replace(server, **_read_user(who))
    if not separator and before is not None:
        who_before = {"user": before.user, "password": before.password, "token": before.token}
        return msgspec.structs.replace(server, **who_before)
    return server


def _read_user(who: str) -> dict[str, str]:
    user, colon, password = who.partition(":")
    try:
        if not colon:
            return {"token": unquote(user, errors="strict")}
        return {"user": unquote(user, errors="strict"), "password": unquote(password, errors="strict")}
    except UnicodeDecodeError:
        raise ValueError("has a user or password that is no text once it is decoded") from None


def redacted(url: str) -> str:
    """Return *url* without user, password and query: for logs and messages, also of what is no URL."""
    head, separator, rest = url.partition("://")
    if "?" in head:
        return head.partition("?")[0]
    scheme, rest = (head, rest) if separator else ("", url)
    # The last @, and before the query is cut off: a password may hold either sign.
    _, secret, host = rest.rpartition("@")
    return f"{scheme}{separator}{'***@' if secret else ''}{host.partition('?')[0]}"


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
