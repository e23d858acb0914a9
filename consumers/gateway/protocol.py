"""HTTP/1.1 as uvicorn speaks it, with what it lacks: deadlines for requests and readers, patience with half a close."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

REQUEST_DEADLINE: Final = 20.0
"""Seconds from the first byte of a request, or the connection, until its last byte."""

MAX_HEAD: Final = 65_536
"""Bytes of a request's line and headers."""

READ_DEADLINE: Final = 30.0
"""Seconds a client may take to read what is buffered for it."""


class GatewayProtocol(HttpToolsProtocol):
    """
    One connection.

    uvicorn 0.54 takes heads of any size, and waits for ever for the rest of one, for the rest of a body that was
    refused early, and for a client that does not read.  And a client that ends its side after the request, as it may,
    gets no answer from it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._begun = False
        self._head = 0
        self._half_closed = False

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        # asyncio leaves it out for a listener made by `socket.create_server`: each answer would wait 40 ms for an ACK.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch(waiting=True)

    def data_received(self, data: bytes) -> None:
        """Take what came, and see whether a request is complete by now."""
        self._head += len(data)
        super().data_received(data)
        if self._head > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("The request's head is too large.")
        self._watch(waiting=self._begun)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._begun = True

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        super().on_headers_complete()
        self._head = 0

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, which has bounds of its own."""
        super().on_body(body)
        self._head = 0

    def on_message_complete(self) -> None:
        """End a request."""
        super().on_message_complete()
        self._begun, self._head = False, 0

    def eof_received(self) -> bool | None:  # type: ignore[override]  # uvicorn has it say None, asyncio take a bool
        """Keep the connection for an answer that has not begun; a reader that goes away in the midst of one is gone."""
        cycle: Any = self.cycle
        self._half_closed = not self._begun and cycle is not None and not cycle.response_started
        return self._half_closed

    def on_response_complete(self) -> None:
        """End the connection where nothing more can come."""
        super().on_response_complete()
        if self._half_closed:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._watch(waiting=False)
        self._end_reading()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._reading = self._reading or self.loop.call_later(READ_DEADLINE, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: it has read."""
        self._end_reading()
        super().resume_writing()

    def _end_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _watch(self, *, waiting: bool) -> None:
        if waiting and self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_DEADLINE, self._give_up)
        elif not waiting and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        self.transport.close()
