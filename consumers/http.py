"""Listening addresses: a configured address must work, the default one is used only if it is free."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import structlog

if TYPE_CHECKING:
    from consumers.projector.endpoint import Endpoint
    from consumers.projector.service import Service

DEFAULT: Final = "127.0.0.1:9464"
OFF: Final = "off"

log = structlog.get_logger()


def open_endpoint(service: Service, listen: str = "") -> Endpoint | None:
    """
    Return the endpoint of *service*, bound to *listen*, `HOST:PORT`, or to the default address if it is empty.

    None if *listen* is "off".  Also None, with a warning in the log, if *listen* is empty and the default address is in
    use, for example by another projector on this machine, or the extra is not installed.

    Raises:
        ValueError: *listen* is no address, or cannot be bound.
        ModuleNotFoundError: *listen* is given, and the extra is not installed.

    """
    if listen == OFF:
        return None
    try:
        return _endpoint(service, listen or DEFAULT)
    except (ModuleNotFoundError, ValueError) as exc:
        if listen:
            raise
        log.warning("endpoint.missing", reason=_words(exc))
        return None


def _endpoint(service: Service, listen: str) -> Endpoint:
    from consumers.projector.endpoint import Endpoint

    return Endpoint(service, bound(listen))


def bound(listen: str) -> socket.socket:
    """
    Return a socket that listens on *listen*, `HOST:PORT`.

    Raises:
        ValueError: *listen* is no address, or cannot be bound.

    """
    host, port = _host_and_port(listen)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as exc:
        raise ValueError(f"listen: {listen}: {exc.strerror or exc}") from exc


def _host_and_port(listen: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{listen}")
        if parts.hostname and parts.port is not None and parts.netloc == listen:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise ValueError(f"listen: {listen!r} is neither {OFF!r} nor HOST:PORT, as {DEFAULT!r} or '[::1]:9464'")


def _words(exc: Exception) -> str:
    if isinstance(exc, ModuleNotFoundError):
        return f"this needs the module {exc.name}; pip install 'noetl-events[serve]'"
    return str(exc)
