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
import socket
import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from nats.aio.transport import Transport

from noetl_events.jetstream.greeting import ConnectFailed, identify, read_info, reason_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Sequence
    from urllib.parse import ParseResult

    from noetl_events.jetstream.greeting import Reader

Address: TypeAlias = "tuple[str, int]"

_NEXT_ADDRESS: Final = 0.25
_SILENT: Final = 0.6
_CLOSE: Final = 1.0
_LIMIT: Final = 256 * 1024
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
        except (OSError, TimeoutError) as exc:
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


class TcpTransport(ServerTransport):
    """
    TCP connections of one client.

    Args:
        is_encrypted: write nothing without TLS.
        name_of: returns the name in the certificate of the server at a host.
        timeout: seconds for an attempt on one server.
        tls_first: for a handshake before the server speaks; None for one after it.

    """

    def __init__(
        self,
        *,
        is_encrypted: bool,
        name_of: Callable[[str], str],
        timeout: float,
        tls_first: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(is_encrypted=is_encrypted, name_of=name_of, timeout=timeout)
        self._tls_first = tls_first
        self._identified: set[Address] = set()

    async def _connect(self, uri: ParseResult) -> Wire:
        """Return the connection to the first address of *uri* that speaks as a server does."""
        host = str(uri.hostname)
        left = await resolve(host, uri.port or 0)
        failures: dict[str, str] = {}
        attempts: dict[asyncio.Task[_TcpWire], str] = {}
        try:
            while left or attempts:
                if left:
                    address = left.pop(0)
                    attempts[asyncio.create_task(self._greeted(address, host))] = address[0]
                pause = _NEXT_ADDRESS if left else None
                done, _ = await asyncio.wait(attempts, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    address_tried = attempts.pop(task)
                    if (failure := task.exception()) is None:
                        return task.result()
                    failures[address_tried] = self._reason_of(failure)
        finally:
            await _drop(attempts)
        reasons = [f"{address} {reason}" for address, reason in failures.items()]
        raise ConnectFailed("; ".join(reasons) if len(set(failures.values())) > 1 else min(failures.values()))

    async def _greeted(self, address: Address, host: str) -> _TcpWire:
        wire = await _TcpWire.open(address)
        try:
            if self._tls_first is not None:
                await wire.shake_hands(self._tls_first, self._name_of(host))
            wire.info = await self._info(wire.reader, address)
        except BaseException:
            wire.abort()
            raise
        return wire

    async def _info(self, reader: Reader, address: Address) -> dict[str, Any]:
        reading = asyncio.ensure_future(read_info(reader))
        try:
            await asyncio.wait({reading}, timeout=_SILENT)
            # Once for each: a server that is slow with much to do shall not have more.
            if not reading.done() and address not in self._identified:
                self._identified.add(address)
                if reason := await identify(*address, tls_first=self._tls_first is not None):
                    raise ConnectFailed(reason)
            return await reading
        finally:
            reading.cancel()


class _Reader(asyncio.StreamReader):
    """A reader that gives what came before the connection broke: the server's reason is often the last of it."""

    def __init__(self) -> None:
        super().__init__(limit=_LIMIT)
        self._broken: OSError | None = None

    def set_exception(self, exc: BaseException) -> None:
        self._broken = exc if isinstance(exc, OSError) else ConnectionError(str(exc))
        self.feed_eof()

    def at_eof(self) -> bool:
        return self._broken is None and super().at_eof()

    async def read(self, n: int = -1) -> bytes:
        data = await super().read(n)
        if not data and self._broken is not None:
            raise self._broken
        return data

    async def readuntil(self, separator: bytes = b"\n") -> bytes:  # type: ignore[override]
        try:
            return await super().readuntil(separator)
        except asyncio.IncompleteReadError:
            if self._broken is not None:
                raise self._broken from None
            raise


class _TcpWire:
    """One TCP connection."""

    def __init__(
        self, transport: asyncio.WriteTransport, protocol: asyncio.StreamReaderProtocol, reader: _Reader
    ) -> None:
        self.info: dict[str, Any] = {}
        self.is_encrypted = False
        self.reader = reader
        self._writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
        self._plain: asyncio.StreamWriter | None = None

    @classmethod
    async def open(cls, address: Address) -> _TcpWire:
        reader = _Reader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, *address)
        return cls(transport, protocol, reader)

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        await self._writer.drain()

    async def shake_hands(self, context: ssl.SSLContext, name: str) -> None:
        if self.is_encrypted:
            return
        loop, reader = asyncio.get_running_loop(), _Reader()
        # A reader of its own: what came in plain text must not be taken for what was encrypted.
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = await loop.start_tls(self._writer.transport, protocol, context, server_hostname=name)
        if transport is None:
            raise ConnectionResetError
        protocol.connection_made(transport)
        # The writer of before is kept: once it is not referred to any more, it closes the connection below.
        self._plain, self._writer = self._writer, asyncio.StreamWriter(transport, protocol, reader, loop)
        self.reader, self.is_encrypted = reader, True

    def abort(self) -> None:
        self._writer.transport.abort()

    async def aclose(self) -> None:
        self._writer.close()
        try:
            with suppress(OSError):
                async with asyncio.timeout(_CLOSE):
                    await self._writer.wait_closed()
        except TimeoutError:
            self.abort()
        # What is left to do is done in the next turn of the loop, which may be the last.
        await asyncio.sleep(0)


async def resolve(host: str, port: int) -> list[Address]:
    """
    Return the addresses of *host*, as the system orders them.

    Raises:
        socket.gaierror: it has none.

    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Address]] = loop.create_future()

    def tell(addresses: list[Address], failure: OSError | None) -> None:
        if found.done():
            return
        if failure is not None:
            found.set_exception(failure)
        else:
            found.set_result(addresses)

    def ask() -> None:
        addresses, failure = list[Address](), None
        try:
            told = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys((str(address[0]), port) for *_, address in told))
        except OSError as exc:
            failure = exc
        # By then the loop may be closed.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(tell, addresses, failure)

    # A thread of the loop's own would hold up the end of the process until a name server has answered.
    threading.Thread(target=ask, name="resolve", daemon=True).start()
    return await found


async def _drop(attempts: Iterable[asyncio.Task[_TcpWire]]) -> None:
    """End the attempts that are not needed any more, and close what they have opened."""
    tasks: Sequence[asyncio.Task[_TcpWire]] = list(attempts)
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, _TcpWire):
            outcome.abort()
