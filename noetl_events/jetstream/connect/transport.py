"""
The transport between nats-py's client and its server: one connection after the other, with TLS or without.

nats-py's own transport tries one address of a name, does not check the answer, and starts TLS only if the server
requires it.  So the password is sent in plain text to a server without TLS, or to an attacker that removes the
requirement in transit.  With this transport

- every address of a name is tried, a quarter of a second after the one before, until one has answered;
- an attempt on a server has one timeout, which includes the TLS handshake and the answer to CONNECT;
- nothing is written before the handshake if TLS is wanted;
- everything that the server sent before it closed the connection is read, even if the connection then broke.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from nats.aio.transport import Transport

from noetl_events.jetstream.connect.greeting import ConnectFailed, reason_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable
    from urllib.parse import ParseResult

    from noetl_events.jetstream.connect.greeting import Reader

_CERTIFICATE: Final = "; set tls_cert and tls_key (NATS_TLS_CERT, NATS_TLS_KEY) to a client certificate that it trusts"


class Wire(Protocol):
    """A connection with the operations that nats-py needs."""

    info: dict[str, Any]
    """INFO of the server."""

    is_encrypted: bool

    @property
    def reader(self) -> Reader:
        """Source of received bytes."""

    def write(self, data: bytes) -> None:
        """Send *data*."""

    async def drain(self) -> None:
        """Return once the buffer has room for more."""

    async def shake_hands(self, context: ssl.SSLContext, name: str) -> None:
        """Encrypt the connection, if it is not encrypted; the certificate must be for *name*."""

    async def aclose(self) -> None:
        """Close the connection, by force after a timeout, because a lost peer does not answer."""


class ServerTransport(Transport, ABC):
    """
    The connections of one client.

    Args:
        is_encrypted: True to write nothing without TLS.
        name_of: function that returns the name in the certificate of the server at a host.
        timeout: timeout in seconds for an attempt on one server.

    """

    def __init__(self, *, is_encrypted: bool, name_of: Callable[[str], str], timeout: float) -> None:
        self.address = ""
        """Host and port, in the form of a URL, of the last connected server."""

        self.ended = ""
        """Reason why the last connection broke; empty if it did not, or the server has closed it."""

        self._is_encrypted = is_encrypted
        self._name_of = name_of
        self._timeout = timeout
        self._deadline = 0.0
        self._wire: Wire | None = None
        self._is_open = False
        self._greeting = b""

    @property
    def info(self) -> dict[str, Any]:
        """INFO of the server; empty before the first connection."""
        return self._wire.info if self._wire else {}

    async def open(self, uri: ParseResult) -> None:
        """
        Connect to the server at *uri*, and read its first line.

        Raises:
            ConnectFailed: there is no server for clients, or it does not meet the TLS options.

        """
        await self.wait_closed()
        self.address = uri.netloc
        self._deadline = asyncio.get_running_loop().time() + self._timeout
        try:
            async with asyncio.timeout_at(self._deadline):
                self._wire = await self._connect(uri)
        except Exception as exc:
            # Every error is converted, because nats-py's reconnection would end on an unexpected exception.
            raise ConnectFailed(self._reason_of(exc)) from exc
        try:
            self._greeting = b"INFO " + json.dumps(self._checked(self._wire)).encode() + b"\r\n"
        except ConnectFailed:
            await self.wait_closed()
            raise
        self.ended = ""
        self._is_open = True

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: float) -> None:  # noqa: ARG002  (as nats-py has it)
        """Call `open`, unless it was already called for this connection."""
        if not self._is_open:
            await self.open(uri)
        # The next call is a reconnection, so it must open a new connection.
        self._is_open = False

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: float,
    ) -> None:
        """
        Do the TLS handshake, unless it is done; connect first if nats-py has not connected yet.

        Raises:
            ConnectFailed: the handshake failed.

        """
        if not isinstance(uri, str):
            await self.connect(uri, buffer_size, connect_timeout)
            return
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._connected().shake_hands(ssl_context, self._name_of(uri))
        except (OSError, TimeoutError) as exc:
            raise ConnectFailed(self._reason_of(exc)) from exc

    def write(self, payload: bytes) -> None:
        """Send *payload*; it is lost if the connection is lost."""
        if self._wire is not None:
            if self._is_encrypted and not self._wire.is_encrypted:
                raise ConnectFailed("does not encrypt, and TLS is required; nothing was sent to it")
            self._wire.write(payload)

    def writelines(self, payload: Iterable[bytes]) -> None:
        """Send all parts of *payload*."""
        self.write(b"".join(payload))

    async def drain(self) -> None:
        """Return once the buffer has room for more; a lost connection is reported to the reader only."""
        if self._wire is not None:
            with suppress(OSError):
                await self._wire.drain()

    async def read(self, buffer_size: int) -> bytes:
        """Return received bytes, and wait for the first; none at the end."""
        try:
            return await self._connected().reader.read(buffer_size)
        except OSError as exc:
            self.ended = reason_of(exc)
            raise

    async def readline(self) -> bytes:
        """
        Return the next line: the server's first one, then the answer to CONNECT.

        Raises:
            ConnectFailed: there is no line in time.

        """
        greeting, self._greeting = self._greeting, b""
        if greeting:
            return greeting
        try:
            async with asyncio.timeout_at(self._deadline):
                line = await self._connected().reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            hint = _CERTIFICATE if self.info.get("tls_verify") else ""
            raise ConnectFailed(f"closes the connection on receiving the credentials, without a reason{hint}") from None
        except (OSError, TimeoutError, asyncio.LimitOverrunError) as exc:
            raise ConnectFailed(self._reason_of(exc)) from exc
        return line

    def close(self) -> None:
        """Do nothing, because nats-py calls `wait_closed` next."""

    async def wait_closed(self) -> None:
        """Close the connection."""
        wire, self._wire = self._wire, None
        self._greeting, self._is_open = b"", False
        if wire is not None:
            await wire.aclose()

    def at_eof(self) -> bool:
        """Return True if the server has closed the connection, and everything was read."""
        return self._wire is None or self._wire.reader.at_eof()

    def __bool__(self) -> bool:
        # nats-py would replace a transport that is false by one of its own.
        return True

    @abstractmethod
    async def _connect(self, uri: ParseResult) -> Wire:
        """Return a connection that has received the server's first line."""

    def _checked(self, wire: Wire) -> dict[str, Any]:
        info = wire.info
        if not self._is_encrypted or wire.is_encrypted or info.get("tls_required"):
            return info
        if info.get("tls_available"):
            # nats-py starts TLS only if the server requires it.
            return info | {"tls_required": True}
        raise ConnectFailed(
            "offers no TLS, and tls:// or a TLS option requires it: no credentials were sent; give the server a `tls` "
            "block, or write nats:// without TLS options"
        )

    def _connected(self) -> Wire:
        if self._wire is None:
            raise ConnectFailed("is not connected")
        return self._wire

    def _reason_of(self, exc: BaseException | None) -> str:
        if isinstance(exc, TimeoutError) and not exc.errno:
            return f"does not answer within {self._timeout:g} s"
        return reason_of(exc)
