"""
URLs of NATS servers, read in one way wherever they are given: in settings, in options, in a sink URL.

    nats://[user[:password]@]host[:port][,...]

The scheme is `nats`, `tls`, `ws` or `wss`.  Further servers stand behind commas: whole URLs, or hosts that take scheme,
user and password of the one before.  A user alone is a token.  User and password are percent-decoded, as every client
of NATS does it: a `@` in a password is written `%40`.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

import msgspec

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
