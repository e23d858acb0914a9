"""
NATS servers: their URLs, and the order in which a connection tries them.

    nats://[user[:password]@]host[:port][,...]

The scheme is `nats`, `tls`, `ws` or `wss`.  Further servers follow after commas: whole URLs, or hosts that inherit
scheme, user and password from the one before.  A user without a password is a token.  User and password are
percent-decoded, as in all NATS clients: a `@` in a password is written `%40`.

URLs are read in the same way in settings, in options and in sink URLs.

Between two attempts on a server there is a wait with jitter that doubles with each failure.  So a list with an
unreachable server costs only its timeout, and thousands of workers do not reconnect in the same second.  A connection
that ended within ten seconds is a failure too: if a request after each connection makes the server close it, the next
one will be closed as well.

Servers announced by another server (INFO, `connect_urls`) may have addresses that cannot be reached from here.  Each is
tried between two attempts on configured servers, never more often.
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
_HINT: Final = "in a user or password write % as %25, @ as %40, : as %3A, / as %2F, ? as %3F, # as %23, a comma as %2C"


class ServerUrl(msgspec.Struct, frozen=True, kw_only=True):
    """
    A server, and the credentials in its URL.

    Args:
        scheme: "nats", "tls", "ws" or "wss".
        host: name or address; an IPv6 address without brackets.
        port: port of the server.
        path: path after the host, for a websocket; empty otherwise.
        user: decoded user; None without one.
        password: decoded password; None without one.
        token: decoded token; None without one.

    """

    scheme: str
    host: str
    port: int
    path: str = ""
    user: str | None = None
    password: str | None = None
    token: str | None = None

    def __str__(self) -> str:
        """Show the server without credentials."""
        return f"{self.scheme}://{self.address}{self.path}"

    __repr__ = __str__

    @property
    def address(self) -> str:
        """Host and port, in the form of a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_websocket(self) -> bool:
        """True if the server is reached through a websocket."""
        return self.scheme in ("ws", "wss")

    @property
    def has_user(self) -> bool:
        """True if the URL contains a user or a token."""
        return self.user is not None or self.token is not None


def read_servers(text: str) -> tuple[ServerUrl, ...]:
    """
    Return the servers in *text*, in order.

    Raises:
        ValueError: a part is no NATS URL, or the schemes do not fit together; the message omits the text between `://`
            and the last `@`.

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
        raise ValueError("is not a NATS URL; write an IPv6 address in brackets, as nats://[::1]:4222")
    if match is None or (slash and path and scheme in ("nats", "tls")):
        raise ValueError("is not a NATS URL such as nats://host:4222")
    port = int(match[2] or _PORTS[scheme])
    if not 0 < port <= _MOST_PORT:
        raise ValueError(f"is not a NATS URL such as nats://host:4222; {port} is not a port number")
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
        raise ValueError("has a user or password that is not UTF-8 after percent-decoding") from None


def redacted(url: str) -> str:
    """Return *url* without user, password and query, for logs and messages; *url* may be invalid."""
    head, separator, rest = url.partition("://")
    if "?" in head:
        return head.partition("?")[0]
    scheme, rest = (head, rest) if separator else ("", url)
    # Cut at the last @ before the query is removed, because a password may contain ? and @.
    _, secret, host = rest.rpartition("@")
    return f"{scheme}{separator}{'***@' if secret else ''}{host.partition('?')[0]}"


_FIRST_WAIT: Final = 0.1
_LONGEST_AWAY: Final = 5.0
_LONGEST_REFUSED: Final = 15.0

LASTING: Final = 10.0
"""Seconds after which a connection counts as successful."""


class Candidate(Protocol):
    """A server in nats-py's list."""

    @property
    def uri(self) -> ParseResult:
        """URL of the server."""


C = TypeVar("C", bound=Candidate)


class ServerPool:
    """
    The servers of one connection.

    Args:
        servers: configured servers.

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
        """True if the current connection has lasted long enough to count as successful."""
        return self._connected_at is not None and time.monotonic() - self._connected_at >= LASTING

    @property
    def pause(self) -> float:
        """Seconds until the next attempt, for a client without a connection."""
        return max(self._next_round - time.monotonic(), 0.0)

    def round(self) -> list[ServerUrl]:
        """Return the configured servers in the order in which a new client tries each once."""
        return random.sample(self._servers, len(self._servers))

    def connected(self) -> None:
        """Record that a server has accepted the connection."""
        self._connected_at = time.monotonic()

    def failed(self, *, is_refused: bool) -> None:
        """Record that all servers have failed; *is_refused* if one of them answered and refused the connection."""
        self._is_refused = is_refused
        self._rounds += 1
        # After the first failure there is no wait, because the next attempt may succeed.
        wait = _wait(self._rounds - 1, longest=self._longest) if self._rounds > 1 else 0.0
        self._next_round = time.monotonic() + wait

    def lost(self, *, is_refused: bool) -> None:
        """Record the end of the connection; *is_refused* if the server gave a reason for closing it."""
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
        """Return the candidate that a disconnected client tries next, and the wait before that in seconds."""
        # Candidates are ordered by the sequence of attempts, because two attempts can have the same time.
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
