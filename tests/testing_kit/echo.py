"""An echo server and its client."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SILENCE: Final = 0.1
"""The seconds of silence after which a test concludes that nothing will arrive."""


class EchoServer:
    """A server that echoes every byte; `ends` has a token for each connection that ended."""

    def __init__(self) -> None:
        self.ends = asyncio.Semaphore(0)

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        await self._listening.wait_closed()

    @property
    def port(self) -> int:
        """The port of the server."""
        port: int = self._listening.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(100):
                writer.write(chunk)
        self.ends.release()
        writer.close()


class Client:
    """A connection to the server, directly or through a proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def echo(self, data: bytes) -> bytes:
        """Send *data* and return the answer."""
        self.writer.write(data)
        return await self.receive()

    async def receive(self) -> bytes:
        """Return the received bytes, empty at the end."""
        async with asyncio.timeout(180):
            return await self.reader.read(100)

    async def is_silent(self) -> bool:
        """Return true if neither bytes nor an end arrive."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SILENCE):
                await self.reader.read(100)
            return False
        return True


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    """Connect, and close without errors: the connection may be gone."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()
