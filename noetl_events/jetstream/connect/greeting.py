"""
The first line of a NATS server, and the detection of other servers at its address.

A NATS server sends the first line, `INFO {...}`.  Any other answer, or none, is described in the error, because a wrong
port is the most frequent mistake, and a timeout does not show it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

_INFO: Final = b"INFO "
_ERROR: Final = b"-ERR"
_HTTP: Final = b"HTTP/"
_TLS_RECORDS: Final = (b"\x15\x03", b"\x16\x03")
_MOST: Final = 1024 * 1024
_SHOWN: Final = 60
_REST: Final = 0.2
_PROBE: Final = 0.7
_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: nats\r\nConnection: close\r\n\r\n"


class Reader(Protocol):
    """A source of bytes."""

    async def read(self, n: int) -> bytes:
        """Return up to *n* bytes, and wait for the first; none at the end."""

    async def readuntil(self, separator: bytes) -> bytes:
        """Return all bytes up to and with *separator*; raises `asyncio.IncompleteReadError` at the end."""

    def at_eof(self) -> bool:
        """Return True if the end was reached, and everything was read."""


class ConnectFailed(ConnectionError):
    """A server cannot be used; the message gives the reason, and continues a sentence that begins with its URL."""


async def read_info(reader: Reader) -> dict[str, Any]:
    """
    Return the INFO in the server's first line.

    Raises:
        ConnectFailed: the first line is not INFO.
        OSError: the connection is lost.

    """
    head = b""
    while len(head) < len(_INFO) and _INFO.startswith(head):
        if not (more := await reader.read(len(_INFO) - len(head))):
            raise ConnectFailed(
                "closes the connection without an answer; check that a load balancer there has a server"
            )
        head += more
    if head != _INFO:
        raise ConnectFailed(_words_of(head + await _read_remainder(reader)))
    try:
        info = json.loads(await reader.readuntil(b"\n"))
    except asyncio.IncompleteReadError:
        raise ConnectFailed("closes the connection in the middle of its first line") from None
    except (ValueError, asyncio.LimitOverrunError):
        raise ConnectFailed("sends an INFO line that cannot be read") from None
    if not isinstance(info, dict):
        raise ConnectFailed("sends an INFO line that cannot be read")
    if reason := _other_port(info):
        raise ConnectFailed(reason)
    return info


def _other_port(info: Mapping[str, Any]) -> str:
    """Return the error text for an INFO of a port that is not for clients; empty if it is for clients."""
    # A server of a version without these fields reports the wrong port itself, in its answer to CONNECT.
    kinds = {
        "gateways": ("gateway", "gateway_url"),
        "the other servers of its cluster": ("lnoc", "route_pool_size", "import", "export"),
        "leaf nodes": ("leafnode_urls",),
    }
    for kind, fields in kinds.items():
        if not info.keys().isdisjoint(fields):
            return f"is a NATS server's port for {kind}; clients connect to another one, 4222 by default"
    return ""


async def _read_remainder(reader: Reader) -> bytes:
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(_REST):
            return await reader.read(_MOST)
    return b""


def _words_of(answer: bytes) -> str:
    if answer.startswith(_HTTP):
        return "answers HTTP, not NATS"
    if answer.startswith(_TLS_RECORDS):
        return "answers with TLS before anything else; set tls_first (NATS_TLS_FIRST) if it is a NATS server"
    text = answer.partition(b"\r\n")[0].decode(errors="replace")
    if answer.startswith(_ERROR):
        return f"refuses: {text.removeprefix('-ERR').strip()}"
    return f"answers {text[:_SHOWN]!r}, which is not NATS"


async def identify(host: str, port: int, *, tls_first: bool) -> str:
    """
    Return a description of a silent server; empty if it cannot be identified.

    This connects again without credentials, requests a page as a browser does, and starts a handshake as a TLS client
    does.
    """
    answer = await _answer_to(host, port, _REQUEST)
    if answer.startswith(_HTTP) and b"sec-websocket" in answer.lower():
        return "is a websocket port; write ws://, or wss:// if it is encrypted"
    if answer.startswith(_HTTP):
        return "is an HTTP server, such as the monitoring port of nats-server; clients connect to port 4222 by default"
    if not answer and not tls_first and await _accepts_tls(host, port):
        return "waits for a TLS handshake; set tls_first (NATS_TLS_FIRST) if it is a NATS server with handshake_first"
    return ""


async def _answer_to(host: str, port: int, request: bytes) -> bytes:
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_PROBE):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(request)
                # The first bytes of the answer are enough to recognize HTTP.
                return await reader.read(1_000)
            finally:
                writer.transport.abort()
    return b""


async def _accepts_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    # Nothing but the handshake is sent, so the certificate does not matter.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_PROBE):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
            writer.transport.abort()
            return True
    return False


def reason_of(exc: BaseException | None) -> str:
    """Return *exc*, of a failed connection, as the continuation of a sentence that begins with a URL."""
    match exc:
        case ssl.SSLCertVerificationError():
            words = (
                f"has a certificate that the client does not accept: {exc.verify_message}; set tls_ca (NATS_TLS_CA) "
            )
            words += "to the authority that signed it"
        case ssl.SSLError():
            words = f"fails the TLS handshake: {_tls_words(exc)}"
        case socket.gaierror():
            words = f"has a name that does not resolve: {exc.strerror}"
        case ConnectionRefusedError():
            words = "refuses the connection: nothing listens there"
        case ConnectionResetError():
            words = "resets the connection"
        case OSError(errno=int(number)):
            words = f"cannot be reached: {os.strerror(number)}"
        case _:
            words = str(exc) or type(exc).__name__
    return words


def _tls_words(exc: ssl.SSLError) -> str:
    if exc.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING"):
        return "the server does not use TLS"
    if exc.reason and "CERTIFICATE_REQUIRED" in exc.reason:
        return "the server requires a client certificate; set tls_cert and tls_key (NATS_TLS_CERT, NATS_TLS_KEY)"
    return (exc.reason or str(exc)).replace("_", " ").lower()
