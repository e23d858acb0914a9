"""NATS over a websocket, as behind an HTTPS ingress; this needs aiohttp, which is an extra."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from noetl_events.jetstream.connect.greeting import ConnectFailed, read_info
from noetl_events.jetstream.connect.transport import ServerTransport

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from urllib.parse import ParseResult

    from noetl_events.jetstream.connect.transport import Wire

_CLOSE: Final = 1.0


class WebSocketTransport(ServerTransport):
    """
    The websockets of one client.

    Args:
        context: TLS context; None for websockets without TLS.
        name_of: function that returns the name in the certificate of the server at a host.
        timeout: timeout in seconds for an attempt on one server.

    """

    def __init__(self, *, context: ssl.SSLContext | None, name_of: Callable[[str], str], timeout: float) -> None:
        super().__init__(is_encrypted=context is not None, name_of=name_of, timeout=timeout)
        self._context = context

    async def _connect(self, uri: ParseResult) -> Wire:
        # Discovered servers have the scheme of TCP.
        url = uri._replace(scheme="ws" if self._context is None else "wss").geturl()
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        try:
            socket = await session.ws_connect(
                url,
                max_msg_size=0,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE),
                ssl=self._context or True,
                server_hostname=self._name_of(str(uri.hostname)) if self._context else None,
            )
            wire = _WebSocketWire(session, socket, is_encrypted=self._context is not None)
            wire.info = await read_info(wire.reader)
        except aiohttp.ClientError as exc:
            await session.close()
            raise _cause_of(exc) from exc
        except BaseException:
            await session.close()
            raise
        return wire


def _cause_of(exc: aiohttp.ClientError) -> Exception:
    match exc:
        case aiohttp.ClientConnectorCertificateError():
            return exc.certificate_error
        case aiohttp.ClientConnectorError():
            return exc.os_error
        case aiohttp.WSServerHandshakeError():
            return ConnectFailed(f"answers the WebSocket handshake with {exc.status} {exc.message}")
        case aiohttp.ClientResponseError() if "INFO" in exc.message:
            return ConnectFailed("is a NATS server's port for TCP; write nats:// or tls://")
        case aiohttp.ClientResponseError():
            return ConnectFailed(f"does not answer the WebSocket handshake in HTTP: {exc.message}")
        case _:
            return exc


class _WebSocketWire:
    """A websocket connection."""

    def __init__(
        self, session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse, *, is_encrypted: bool
    ) -> None:
        self.info: dict[str, Any] = {}
        self.is_encrypted = is_encrypted
        self.reader = _Reader(socket)
        self._session = session
        self._socket = socket
        self._pending: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._pending.append(data)

    async def drain(self) -> None:
        pending, self._pending = self._pending, []
        if pending:
            await self._socket.send_bytes(b"".join(pending))

    async def shake_hands(self, context: ssl.SSLContext, name: str) -> None:
        """Do nothing: a websocket is encrypted from its beginning, or never."""

    async def aclose(self) -> None:
        with suppress(OSError, TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(2 * _CLOSE):
                await self.drain()
                await self._socket.close()
        await self._session.close()


class _Reader:
    """The bytes received through a websocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._buffer = bytearray()
        self._is_over = False

    def at_eof(self) -> bool:
        return self._is_over and not self._buffer

    async def read(self, n: int) -> bytes:
        if not self._buffer:
            await self._receive()
        data = bytes(self._buffer[:n])
        del self._buffer[:n]
        return data

    async def readuntil(self, separator: bytes) -> bytes:
        while (end := self._buffer.find(separator)) < 0:
            if self._is_over:
                raise asyncio.IncompleteReadError(bytes(self._buffer), None)
            await self._receive()
        line = bytes(self._buffer[: end + len(separator)])
        del self._buffer[: len(line)]
        return line

    async def _receive(self) -> None:
        if self._is_over:
            return
        message = await self._socket.receive()
        match message.type:
            case aiohttp.WSMsgType.BINARY:
                self._buffer += message.data
            case aiohttp.WSMsgType.TEXT:
                self._buffer += message.data.encode()
            case _:
                self._is_over = True
