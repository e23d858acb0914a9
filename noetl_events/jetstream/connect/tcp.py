"""NATS over TCP: all addresses of a name are tried, with TLS before or after the server's first line."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from noetl_events.jetstream.connect.greeting import ConnectFailed, identify, read_info
from noetl_events.jetstream.connect.transport import ServerTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from urllib.parse import ParseResult

    from noetl_events.jetstream.connect.greeting import Reader
    from noetl_events.jetstream.connect.transport import Wire
    from noetl_events.jetstream.options import ConnectOptions

Address: TypeAlias = "tuple[str, int]"

_NEXT_ADDRESS: Final = 0.25
_SILENT: Final = 0.6
_CLOSE: Final = 1.0
_LIMIT: Final = 256 * 1024


class TcpTransport(ServerTransport):
    """
    The TCP connections of one client.

    Args:
        is_encrypted: True to write nothing without TLS.
        name_of: function that returns the name in the certificate of the server at a host.
        timeout: timeout in seconds for an attempt on one server.
        tls_first: TLS context for a handshake before the server's first line; None for one after it.

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
        """Return a connection to the first address of *uri* that answers with the first line of a server."""
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
            # Each address is probed only once, so a slow server does not get more work.
            if not reading.done() and address not in self._identified:
                self._identified.add(address)
                if reason := await identify(*address, tls_first=self._tls_first is not None):
                    raise ConnectFailed(reason)
            return await reading
        finally:
            reading.cancel()


class _Reader(asyncio.StreamReader):
    """A reader that returns all bytes received before the connection broke; the last are often the server's reason."""

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
    """A TCP connection, with TLS after the handshake."""

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
        # A new reader is used, so that bytes received in plain text are not read as encrypted ones.
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = await loop.start_tls(self._writer.transport, protocol, context, server_hostname=name)
        if transport is None:
            raise ConnectionResetError
        protocol.connection_made(transport)
        # Keep a reference to the old writer, because its deletion would close the connection.
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
        # The event loop finishes the close in its next iteration, which may be the last.
        await asyncio.sleep(0)


async def resolve(host: str, port: int) -> list[Address]:
    """
    Return the addresses of *host*, in the order of the system.

    Raises:
        socket.gaierror: *host* has no address.

    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Address]] = loop.create_future()

    def report(addresses: list[Address], failure: OSError | None) -> None:
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
        # The event loop may be closed by now.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(report, addresses, failure)

    # A thread of the event loop's pool would delay the end of the process until the name server answers.
    threading.Thread(target=ask, name="resolve", daemon=True).start()
    return await found


async def _drop(attempts: Iterable[asyncio.Task[_TcpWire]]) -> None:
    """Cancel attempts that are not needed any more, and close their connections."""
    tasks = list(attempts)
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, _TcpWire):
            outcome.abort()


def transport_for(options: ConnectOptions, context: ssl.SSLContext | None) -> ServerTransport:
    """Return the transport for *options*; *context* has their TLS options, None without any."""
    own = [server.host for server in options.urls]

    def name_of(host: str) -> str:
        # The certificate of a discovered address has the configured name.
        return host if host in own or not _is_address(host) else own[0]

    if options.urls[0].is_websocket:
        from noetl_events.jetstream.connect.websocket import WebSocketTransport  # noqa: PLC0415  (it takes an extra)

        if options.is_encrypted:
            context = context or ssl.create_default_context()
        return WebSocketTransport(context=context, name_of=name_of, timeout=options.connect_timeout)
    return TcpTransport(
        is_encrypted=options.is_encrypted,
        name_of=name_of,
        timeout=options.connect_timeout,
        tls_first=context if options.tls_first else None,
    )


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
