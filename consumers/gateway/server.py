"""The web server of a gateway process, from its first connection to the answer to its last request."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import structlog
import uvicorn

from consumers.gateway.protocol import GatewayProtocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from starlette.types import ASGIApp

_MAX_CONNECTIONS: Final = 8_000
_BACKLOG: Final = 2_048
_KEEP_ALIVE: Final = 30
_GRACE: Final = 20

log = structlog.get_logger()


class WebServer:
    """
    Serve *app* on *listener*, which is closed in the end.

    Args:
        app: to serve.
        listener: a bound socket.

    """

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        self._listener = listener
        self._server = _Server(_config(app))

    async def run(self) -> None:
        """Serve until `stop`, then answer what was asked; cancelled, at once."""
        host, port, *_ = self._listener.getsockname()
        log.info("gateway.listening", host=host, port=port)
        try:
            await self._server.serve([self._listener])
        finally:
            self._listener.close()

    @property
    def in_hand(self) -> int:
        """Requests that are being answered."""
        return len(self._server.server_state.tasks)

    async def stop(self) -> None:
        """Accept no more."""
        self._server.should_exit = True
        # At once, not when uvicorn looks next: whoever is sent away must not come back here.
        for server in getattr(self._server, "servers", ()):
            server.close()


class _Server(uvicorn.Server):
    """A server that leaves the signals to the daemon."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=GatewayProtocol,
        access_log=False,
        backlog=_BACKLOG,
        # What events hold goes out as data; no browser may take it for a page.
        headers=[("x-content-type-options", "nosniff")],
        lifespan="off",
        limit_concurrency=_MAX_CONNECTIONS,
        log_config=None,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
        timeout_keep_alive=_KEEP_ALIVE,
        ws="none",
    )
