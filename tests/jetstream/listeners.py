"""Raw listeners in the place of a NATS server: they send a given text and record the bytes they receive."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

INFO: dict[str, Any] = {"server_id": "X", "version": "2.15.1", "proto": 1, "max_payload": 1_048_576, "client_id": 1}


def info(**more: Any) -> bytes:
    """Return the INFO line of a server with the fields *more*."""
    return b"INFO " + json.dumps(INFO | more).encode() + b" \r\n"


class Listener:
    """
    A listener on loopback.

    Args:
        says: text sent to each client that connects.
        closes: true to close the connection after that.

    """

    def __init__(self, says: bytes, *, closes: bool) -> None:
        self.port = 0
        self.heard = b""
        """All bytes that the listener received."""
        self.connections = 0

        self._says = says
        self._closes = closes

    @property
    def host(self) -> str:
        """Host and port of the listener."""
        return f"127.0.0.1:{self.port}"

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        try:
            writer.write(self._says)
            while not self._closes and (data := await reader.read(4_096)):
                self.heard += data
        except OSError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def listening(says: bytes = b"", *, closes: bool = False, port: int = 0) -> AsyncIterator[Listener]:
    """Run a listener."""
    listener = Listener(says, closes=closes)
    server = await asyncio.start_server(listener.take, "127.0.0.1", port)
    listener.port = server.sockets[0].getsockname()[1]
    try:
        yield listener
    finally:
        server.close()


class BlackHole:
    """An address that neither accepts nor refuses connections, as where packets vanish."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((host, port))
        self._socket.listen(0)
        self.port: int = self._socket.getsockname()[1]
        self._kept = [socket.socket() for _ in range(4)]
        for kept in self._kept:
            # Linux keeps one connection more than the backlog; the connections after that get no answer.
            kept.setblocking(False)  # noqa: FBT003  (as the socket has it)
            kept.connect_ex((host, self.port))

    def close(self) -> None:
        """Answer again, with a refused connection."""
        for each in (*self._kept, self._socket):
            each.close()
