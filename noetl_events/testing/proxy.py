"""A TCP proxy that injects faults between a client and a real server."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from noetl_events.testing.server_process import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

Direction: TypeAlias = Literal["up", "down"]
"""Direction of bytes; *up* is towards the server."""

_CHUNK: Final = 64 * 1024


class FaultyProxy:
    """
    Pass the bytes of every connection on to *target_host*:*target_port*, until a fault is injected.

    `cut`, `black_hole`, `refuse`, `impersonate`, `drop`, `delay` and `heal` take effect at once, in any order.  The
    port never changes.  On exit all connections are reset, and an exception of a predicate is raised.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.port: Final = free_port()
        self._host = target_host
        self._port = target_port
        self._links: list[_Link] = []
        self._listener: socket.socket | None = None
        self._swallows_all = False
        self._answer: bytes | None = None
        self._predicate: Callable[[Direction, bytes], bool] = _forward_all
        self._delays: dict[Direction, float] = {}

    async def __aenter__(self) -> Self:
        self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        self.cut()
        ends = await asyncio.gather(*(link.task for link in self._links), return_exceptions=True)
        if failures := [end for end in ends if isinstance(end, Exception)]:
            raise ExceptionGroup("in connections through the proxy", failures)

    def url(self, scheme: str) -> str:
        """Return the URL for clients."""
        return f"{scheme}://127.0.0.1:{self.port}"

    def through(self, url: str) -> str:
        """Return *url* with its user and path, and the address of this proxy."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}").geturl()

    def cut(self) -> None:
        """Reset all connections; new ones are accepted."""
        if self._listener is not None:
            self._accept()
        for link in self._links:
            link.reset()

    def black_hole(self) -> None:
        """Drop all bytes and ends of connections in both directions; new ones are accepted and get no answer."""
        self._swallows_all = True

    def refuse(self) -> None:
        """Refuse new connections; existing ones continue."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def impersonate(self, answer: bytes) -> None:
        """Reset all connections; send *answer* and an end to a client that writes to a new one."""
        self._answer = answer
        self.cut()

    def drop(self, predicate: Callable[[Direction, bytes], bool]) -> None:
        """Drop each chunk for which *predicate* returns true; an earlier predicate is replaced."""
        self._predicate = predicate

    def delay(self, direction: Direction, seconds: float) -> None:
        """Delay each chunk in *direction* by *seconds*, one after the other."""
        self._delays[direction] = seconds

    def heal(self) -> None:
        """
        Pass everything on again.

        Connections that lost bytes in a black hole are reset, because TCP never delivers a stream with holes.
        Impersonated connections are reset too.
        """
        self._swallows_all = False
        self._answer = None
        self._predicate = _forward_all
        self._delays.clear()
        for link in self._links:
            if link.torn:
                link.reset()
        self._listen()

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._listener.settimeout(0)
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        with suppress(BlockingIOError, ConnectionAbortedError):
            while True:
                client, _ = self._listener.accept()
                client.settimeout(0)
                self._links.append(_Link(client, self._serve))

    async def _serve(self, link: _Link) -> None:
        try:
            async with _connection(sock=link.client) as near:
                if self._swallows_all:
                    await self._swallow(link, near[0])
                    return
                if self._answer is not None:
                    await self._impersonate(link, *near, self._answer)
                    return
                async with _connection(host=self._host, port=self._port) as far, asyncio.TaskGroup() as pumps:
                    pumps.create_task(self._pump(link, "up", near[0], far[1]))
                    pumps.create_task(self._pump(link, "down", far[0], near[1]))
        except* OSError:
            # An error on one side has already reset the other side.
            pass

    async def _swallow(self, link: _Link, reader: asyncio.StreamReader) -> None:
        link.torn = True
        while await reader.read(_CHUNK):
            pass

    async def _impersonate(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes
    ) -> None:
        link.torn = True
        if await reader.read(_CHUNK):
            writer.write(answer)
        writer.write_eof()
        # Read everything before the close: a close with unread bytes sends a reset, which may overtake the answer.
        await self._swallow(link, reader)

    async def _pump(
        self, link: _Link, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while chunk := await reader.read(_CHUNK):
                if seconds := self._delays.get(direction):
                    await asyncio.sleep(seconds)
                if not self._swallows(link, direction, chunk):
                    writer.write(chunk)
                    await writer.drain()
        except OSError:
            # A black hole hides a reset of one side from the other side.
            if not self._swallows_all:
                raise
        if not self._swallows(link, direction, b"") and not writer.is_closing():
            writer.write_eof()

    def _swallows(self, link: _Link, direction: Direction, chunk: bytes) -> bool:
        link.torn |= self._swallows_all
        return self._swallows_all or (chunk != b"" and self._predicate(direction, chunk))


class _Link:
    """A client's connection, the task that serves it, and a flag for bytes lost in a black hole."""

    def __init__(self, client: socket.socket, serve: Callable[[_Link], Coroutine[None, None, None]]) -> None:
        self.client = client
        self.torn = False
        self.task = asyncio.create_task(serve(self))
        # A task that is cancelled before its first step does not close the connection itself.
        self.task.add_done_callback(lambda _: client.close())

    def reset(self) -> None:
        if not self.task.done():
            _reset_on_close(self.client)
            self.task.cancel()


@asynccontextmanager
async def _connection(**where: Any) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(**where)
    try:
        yield reader, writer
        writer.close()
        await writer.wait_closed()
    except BaseException:
        _reset_on_close(writer.get_extra_info("socket"))
        writer.transport.abort()
        raise


def _reset_on_close(sock: socket.socket) -> None:
    # With this option a close discards unsent bytes and sends a reset, as if a machine on the route had died.
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _forward_all(_direction: Direction, _chunk: bytes) -> bool:
    return False
