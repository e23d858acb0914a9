"""
The web server of a daemon; no other file uses uvicorn.

uvicorn's HTTP/1.1 protocol gets the limits it lacks, deadlines for requests and for readers, and support for
half-closed connections.
"""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from starlette.types import ASGIApp

REQUEST_DEADLINE: Final = 20.0
"""Seconds from the first byte of a request, or the start of the connection, to its last byte."""

MAX_HEAD: Final = 65_536
"""Largest size of the request line and headers, in bytes."""

READ_DEADLINE: Final = 30.0
"""Seconds that a client may take to read its buffered data."""


class LimitedProtocol(HttpToolsProtocol):
    """
    A connection of the HTTP server, with limits.

    uvicorn 0.54 accepts heads of any size.  Its protocol waits without a deadline for the rest of a head, for the rest
    of a body that was refused early, and for a client that does not read.  A client that half-closes the connection
    after its request, which HTTP allows, gets no response from it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._is_receiving = False
        self._head = 0
        self._half_closed = False

    def connection_made(self, transport: Any) -> None:
        """Start the deadline of the first request."""
        super().connection_made(transport)
        # asyncio does not set this for a listener of `socket.create_server`, so each response would wait 40 ms for an
        # ACK.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._set_deadline(waiting=True)

    def data_received(self, data: bytes) -> None:
        """Parse *data*, check the size of the head, and update the deadline."""
        self._head += len(data)
        super().data_received(data)
        if self._head > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("The request's head is too large.")
        self._set_deadline(waiting=self._is_receiving)

    def on_message_begin(self) -> None:
        """Record the start of a request."""
        super().on_message_begin()
        self._is_receiving = True

    def on_headers_complete(self) -> None:
        """Reset the size of the head at its end."""
        super().on_headers_complete()
        self._head = 0

    def on_body(self, body: bytes) -> None:
        """Reset the size of the head; the body has limits of its own."""
        super().on_body(body)
        self._head = 0

    def on_message_complete(self) -> None:
        """Record the end of a request."""
        super().on_message_complete()
        self._is_receiving, self._head = False, 0

    def eof_received(self) -> bool | None:  # type: ignore[override]  # None in uvicorn, a bool in asyncio
        """Keep a half-closed connection for a response that has not started; close it if the response has started."""
        cycle: Any = self.cycle
        self._half_closed = not self._is_receiving and cycle is not None and not cycle.response_started
        return self._half_closed

    def on_response_complete(self) -> None:
        """Close the connection if no further request can arrive."""
        super().on_response_complete()
        if self._half_closed:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel both deadlines."""
        self._set_deadline(waiting=False)
        self._end_reading()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the deadline for the client to read."""
        super().pause_writing()
        self._reading = self._reading or self.loop.call_later(READ_DEADLINE, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancel the deadline, because the client has read."""
        self._end_reading()
        super().resume_writing()

    def _end_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _set_deadline(self, *, waiting: bool) -> None:
        if waiting and self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_DEADLINE, self._time_out)
        elif not waiting and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _time_out(self) -> None:
        self._deadline = None
        self.transport.close()


_MAX_CONNECTIONS: Final = 8_000
_BACKLOG: Final = 2_048
_KEEP_ALIVE: Final = 30

log = structlog.get_logger()


class WebServer:
    """
    Serve *app* on *listener*, and close *listener* at the end.

    Args:
        app: application to serve.
        listener: a bound socket.
        event: log event of the start.
        grace: seconds that requests in flight have after `stop`.

    """

    def __init__(self, app: ASGIApp, listener: socket.socket, *, event: str, grace: int) -> None:
        self._listener = listener
        self._event = event
        self._server = _Server(_config(app, grace))

    async def run(self) -> None:
        """Serve until `stop`, then finish the requests in flight; return at once if cancelled."""
        host, port, *_ = self._listener.getsockname()
        log.info(self._event, host=host, port=port)
        try:
            await self._server.serve([self._listener])
        finally:
            self._listener.close()

    @property
    def in_flight(self) -> int:
        """Number of requests in flight."""
        return len(self._server.server_state.tasks)

    async def stop(self) -> None:
        """Accept no more connections."""
        self._server.should_exit = True
        # uvicorn would close the listener at its next tick only; until then disconnected clients could reconnect here.
        for server in getattr(self._server, "servers", ()):
            server.close()


class _Server(uvicorn.Server):
    """A server that leaves the signals to the daemon."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: ASGIApp, grace: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=LimitedProtocol,
        access_log=False,
        backlog=_BACKLOG,
        # Event data is user content, so browsers must not interpret it as a page.
        headers=[("x-content-type-options", "nosniff")],
        lifespan="off",
        limit_concurrency=_MAX_CONNECTIONS,
        log_config=None,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=grace,
        timeout_keep_alive=_KEEP_ALIVE,
        ws="none",
    )
