"""
The endpoint that events are posted to, and the credentials for it.

Addresses of a cloud's metadata service are refused: they answer the machine itself, and are no destination.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from noetl_events.sink import SinkUnavailable, read_options

_REFUSED: Final = (
    # Link-local; the metadata services of most clouds are at 169.254.169.254 and 169.254.170.2.
    ip_network("169.254.0.0/16"),
    ip_network("fe80::/10"),
    # Metadata services elsewhere: AWS, Google, Alibaba.
    ip_network("fd00:ec2::254/128"),
    ip_network("fd20:ce::254/128"),
    ip_network("100.100.100.200/32"),
)

# What aiohttp gives to whoever makes its sockets: family, type, protocol, canonical name, address.
_Info = tuple[int, int, int, str, tuple[Any, ...]]


def refusal_of(address: str) -> str | None:
    """Return why nothing is posted to *address*, or None if it may be; a name, which is no address yet, may be."""
    try:
        found = ip_address(address)
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    if any(found in network for network in _REFUSED):
        return f"{address} is link-local or a cloud's metadata service; no events are posted there"
    return None


def open_socket(info: _Info) -> socket.socket:
    """
    Return a socket to connect to the address in *info*.

    It is asked with each address a name has led to, right before the connection: a name that leads elsewhere the second
    time gains nothing.

    Raises:
        PermissionError: nothing is posted there.

    """
    family, kind, protocol, _, address = info
    if reason := refusal_of(address[0]):
        raise PermissionError(errno.EACCES, reason)
    return socket.socket(family, kind, protocol)


_FLAGS: Final = {"true": True, "false": False}
_OPTIONS: Final = ("insecure", "on_409", "timeout", "tls_ca", "token_file")
_TOKEN: Final = re.compile(r"[!-~]+")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """
    An endpoint of NoETL's API.

    Args:
        url: of the endpoint for one event; the one for batches is below it.
        token: sent as a bearer token.
        token_file: read for every request, so that a token may be renewed under way.
        tls_ca: certificates to verify the server by, in place of the system's.
        insecure: allow `http://` to another machine, which anybody on the way can read.

    Raises:
        ValueError: *url* is none to post to, or what is given contradicts itself.

    """

    url: str
    token: str | None = None
    token_file: str | None = None
    tls_ca: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if not _is_address(parts) or parts.query or parts.fragment:
            raise ValueError(f"sink URL: {_shown(self.url)!r} is not such as https://host/api/events")
        if "@" in parts.netloc:
            raise ValueError("sink URL: no user or password in it; give a token in token_file")
        if reason := refusal_of(parts.hostname or ""):
            raise ValueError(f"sink URL: {reason}; give the address of a gateway or of NoETL's API")
        if parts.scheme == "http" and not self.insecure and not _is_loopback(parts.hostname or ""):
            raise ValueError(
                f"sink URL: {self.url!r} is not encrypted; use https, or insecure=true if that is all right"
            )
        if self.token is not None and self.token_file is not None:
            raise ValueError("token, token_file: give one of them")
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise ValueError("token: holds what no header can")

    def __repr__(self) -> str:
        """Show where, never who: a repr ends up in logs."""
        return f"Target(url={self.url!r})"

    @property
    def batch_url(self) -> str:
        """The endpoint for several events of one execution."""
        return f"{self.url.rstrip('/')}/batch"

    def headers(self) -> dict[str, str]:
        """
        Return the headers that say who posts.

        Raises:
            SinkUnavailable: the token cannot be read.

        """
        token = self.token if self.token_file is None else _read_token(self.token_file)
        return {} if token is None else {"Authorization": f"Bearer {token}"}

    def tls(self) -> ssl.SSLContext | bool:
        """
        Return how to verify the server.

        Raises:
            SinkUnavailable: *tls_ca* cannot be read.

        """
        if self.tls_ca is None:
            return True
        try:
            return ssl.create_default_context(cafile=self.tls_ca)
        except OSError as exc:
            raise SinkUnavailable(f"http: tls_ca: {self.tls_ca}: {exc.strerror or exc}") from exc


def read_url(url: str) -> dict[str, Any]:
    """
    Return the arguments of `HttpSink` that *url* holds.

    Raises:
        ValueError: it has an option there is not, or a value that is none.

    """
    parts = urlsplit(url)
    options: dict[str, Any] = {**read_options("http", parts.query, _OPTIONS)}
    if "insecure" in options:
        options["insecure"] = _flag(options["insecure"])
    if "timeout" in options:
        options["timeout"] = _seconds(options["timeout"])
    return options | {"url": parts._replace(query="").geturl()}


def _flag(value: str) -> bool:
    if value not in _FLAGS:
        raise ValueError(f"sink URL: insecure={value} is neither true nor false")
    return _FLAGS[value]


def _seconds(value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", value) or not float(value):
        raise ValueError(f"sink URL: timeout={value} is no number of seconds")
    return float(value)


def _is_address(parts: SplitResult) -> bool:
    try:
        # A port that is none may be a part of a password, which aiohttp would quote.
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_token(path: str) -> str:
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except OSError as exc:
        raise SinkUnavailable(f"http: token_file: {path}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError:
        token = ""
    if not _TOKEN.fullmatch(token):
        # Never with what it holds: a reason ends up in logs.
        raise SinkUnavailable(f"http: token_file: {path}: it holds no token")
    return token


def _shown(url: str) -> str:
    """Return *url* without what may be secret in it."""
    # The last @ first: a password may hold any sign.
    return url.rpartition("@")[2].partition("?")[0]
