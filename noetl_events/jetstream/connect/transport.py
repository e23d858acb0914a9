"""
The way from nats-py's client to its server: one connection after the other, with TLS or without.

nats-py's own tries one address of a name, never looks what answers, and starts TLS only where the server says so: to
one that does not, or to an attacker who takes that word out on the way, the password goes in plain text.  Here

- every address of a name is tried, the next one a quarter of a second after the one before, until one has spoken;
- the whole attempt on a server has one timeout, the TLS handshake and the answer to who we are included;
- where TLS is wanted nothing is written before the handshake;
- what the server said before it closed the connection is read, even if the connection then broke.
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

_CERTIFICATE: Final = "; it wants a certificate that it knows: tls_cert and tls_key (NATS_TLS_CERT, NATS_TLS_KEY)"


class Wire(Protocol):
    """One connection, and what nats-py needs of it."""

    info: dict[str, Any]
    """What the server says of itself."""

    is_encrypted: bool

    @property
    def reader(self) -> Reader:
        """Reads what comes."""

    def write(self, data: bytes) -> None:
        """Send *data*."""

    async def drain(self) -> None:
        """Return once there is room for more."""

    async def shake_hands(self, context: ssl.SSLContext, name: str) -> None:
        """Encrypt it, if it is not; the certificate must be for *name*."""

    async def aclose(self) -> None:
        """Close it, by force after a while: a peer that is gone takes no farewell."""


class ServerTransport(Transport, ABC):
    """
    The connections of one client.

    Args:
        is_encrypted: write nothing without TLS.
        name_of: returns the name in the certificate of the server at a host.
        timeout: seconds for an attempt on one server.

    """

    def __init__(self, *, is_encrypted: bool, name_of: Callable[[str], str], timeout: float) -> None:
        self.address = ""
        """Host and port, as they stand in a URL, of the server connected to last."""

        self.ended = ""
        """Why the last connection broke, in words; empty if it did not, or the server has closed it."""

        self._is_encrypted = is_encrypted
        self._name_of = name_of
        self._timeout = timeout
        self._deadline = 0.0
        self._wire: Wire | None = None
        self._is_open = False
        self._greeting = b""

    @property
    def info(self) -> dict[str, Any]:
        """What the server says of itself; empty before the first one."""
        return self._wire.info if self._wire else {}

    async def open(self, uri: ParseResult) -> None:
        """
        Connect to the server at *uri*, and read its first line.

        Raises:
            ConnectFailed: no server for clients is there, or none as it is wanted.

        """
        await self.wait_closed()
        self.address = uri.netloc
        self._deadline = asyncio.get_running_loop().time() + self._timeout
        try:
            async with asyncio.timeout_at(self._deadline):
                self._wire = await self._connect(uri)
        except Exception as exc:
            # Whatever it is: nats-py's reconnection would end on an exception that it does not expect.
            raise ConnectFailed(self._reason_of(exc)) from exc
        try:
            self._greeting = b"INFO " + json.dumps(self._checked(self._wire)).encode() + b"\r\n"
        except ConnectFailed:
            await self.wait_closed()
            raise
        self.ended = ""
        self._is_open = True

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: float) -> None:  # noqa: ARG002  (as nats-py has it)
        """Do as `open`, unless that was done."""
        if not self._is_open:
            await self.open(uri)
        # Once: the next time it is a reconnection.
        self._is_open = False

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: float,
    ) -> None:
        """
        Shake hands, unless that was done; where nats-py has not connected yet, do that.

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
        """Send *payload*; what is written to a lost connection is lost."""
        if self._wire is not None:
            if self._is_encrypted and not self._wire.is_encrypted:
                raise ConnectFailed("is not encrypted, and that is wanted; nothing was sent to it")
            self._wire.write(payload)

    def writelines(self, payload: Iterable[bytes]) -> None:
        """Send all of *payload*."""
        self.write(b"".join(payload))

    async def drain(self) -> None:
        """Return once there is room to write more; who reads is told of a lost connection."""
        if self._wire is not None:
            with suppress(OSError):
                await self._wire.drain()

    async def read(self, buffer_size: int) -> bytes:
        """Return what has come, waiting for it; nothing at the end."""
        try:
            return await self._connected().reader.read(buffer_size)
        except OSError as exc:
            self.ended = reason_of(exc)
            raise

    async def readline(self) -> bytes:
        """
        Return the next line: the server's first one, then what it answers to who we are.

        Raises:
            ConnectFailed: there is none in time.

        """
        greeting, self._greeting = self._greeting, b""
        if greeting:
            return greeting
        try:
            async with asyncio.timeout_at(self._deadline):
                line = await self._connected().reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            hint = _CERTIFICATE if self.info.get("tls_verify") else ""
            raise ConnectFailed(f"closes the connection once it is told who we are, without a word{hint}") from None
        except (OSError, TimeoutError, asyncio.LimitOverrunError) as exc:
            raise ConnectFailed(self._reason_of(exc)) from exc
        return line

    def close(self) -> None:
        """Say that `wait_closed` follows."""

    async def wait_closed(self) -> None:
        """Close it."""
        wire, self._wire = self._wire, None
        self._greeting, self._is_open = b"", False
        if wire is not None:
            await wire.aclose()

    def at_eof(self) -> bool:
        """Return whether the server has closed the connection, and everything was read."""
        return self._wire is None or self._wire.reader.at_eof()

    def __bool__(self) -> bool:
        # nats-py would replace one that is false by one of its own.
        return True

    @abstractmethod
    async def _connect(self, uri: ParseResult) -> Wire:
        """Return a connection whose server has said what it is."""

    def _checked(self, wire: Wire) -> dict[str, Any]:
        info = wire.info
        if not self._is_encrypted or wire.is_encrypted or info.get("tls_required"):
            return info
        if info.get("tls_available"):
            # nats-py starts TLS only where it is required.
            return info | {"tls_required": True}
        raise ConnectFailed(
            "offers no TLS, and tls:// or a TLS option wants it: it was not told who we are; give the server a `tls` "
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
