"""
The endpoint for events, and its credentials.

Addresses of a cloud's metadata service are refused: they are for the machine itself, and are no destination.
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
    # Link-local addresses; the metadata services of most clouds are at 169.254.169.254 and 169.254.170.2.
    ip_network("169.254.0.0/16"),
    ip_network("fe80::/10"),
    # Other metadata services: AWS, Google, Alibaba.
    ip_network("fd00:ec2::254/128"),
    ip_network("fd20:ce::254/128"),
    ip_network("100.100.100.200/32"),
)

# aiohttp's argument for a socket factory: family, type, protocol, canonical name, address.
_Info = tuple[int, int, int, str, tuple[Any, ...]]


def refusal_of(address: str) -> str | None:
    """Return the reason why *address* is refused, or None if it is allowed; names are not resolved, and allowed."""
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

    aiohttp calls this for each resolved address just before it connects, so a name that resolves to another address the
    second time is checked too.

    Raises:
        PermissionError: the address is refused.

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
        url: URL for single events; the one for batches is below it.
        token: bearer token.
        token_file: path of a file with the token, read for every request, so the token may be renewed at any time.
        tls_ca: path of the authorities for the server's certificate, instead of the system's.
        insecure: True to allow `http://` to other machines, readable for any machine on the route.

    Raises:
        ValueError: *url* is not valid, or arguments contradict each other.

    """

    url: str
    token: str | None = None
    token_file: str | None = None
    tls_ca: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if not _is_address(parts) or parts.query or parts.fragment:
            raise ValueError(f"sink URL: {_shown(self.url)!r} is not a URL such as https://host/api/events")
        if "@" in parts.netloc:
            raise ValueError("sink URL: has a user or password; remove them, and give a token in token_file")
        if reason := refusal_of(parts.hostname or ""):
            raise ValueError(f"sink URL: {reason}; give the address of a gateway or of NoETL's API")
        if parts.scheme == "http" and not self.insecure and not _is_loopback(parts.hostname or ""):
            raise ValueError(f"sink URL: {self.url!r} is not encrypted; use https, or set insecure=true to allow it")
        if self.token is not None and self.token_file is not None:
            raise ValueError("token, token_file: give one of them")
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise ValueError("token: has a character that no HTTP header can have")

    def __repr__(self) -> str:
        """Show the URL only: a repr may be logged, so it must not contain credentials."""
        return f"Target(url={self.url!r})"

    @property
    def batch_url(self) -> str:
        """URL for several events of one execution."""
        return f"{self.url.rstrip('/')}/batch"

    def headers(self) -> dict[str, str]:
        """
        Return the headers with the credentials.

        Raises:
            SinkUnavailable: the token cannot be read.

        """
        token = self.token if self.token_file is None else _read_token(self.token_file)
        return {} if token is None else {"Authorization": f"Bearer {token}"}

    def tls(self) -> ssl.SSLContext | bool:
        """
        Return the TLS context for verifying the server, or True for the default one.

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
    Return the arguments for `HttpSink` in *url*.

    Raises:
        ValueError: *url* has an unknown option, or an option has an invalid value.

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
        # An invalid port may be a part of a password, which aiohttp would quote.
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
        # A reason may be logged, so it must not contain the file's content.
        raise SinkUnavailable(f"http: token_file: {path}: it holds no token")
    return token


def _shown(url: str) -> str:
    """Return *url* without parts that may be secret."""
    # Cut at the last @ first, because a password may contain ? and @.
    return url.rpartition("@")[2].partition("?")[0]
