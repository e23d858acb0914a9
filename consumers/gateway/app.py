"""A gateway process: one connection to NATS, one reader of the stream, one web server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.routing import Route

from consumers.gateway.auth import AuthMiddleware
from consumers.gateway.errors import ApiError, answer_refused
from consumers.gateway.health import GatewayHealth
from consumers.gateway.history import Executions, StreamHistory
from consumers.gateway.hub import Hub
from consumers.gateway.ingest import Ingest
from consumers.gateway.openapi import show_openapi
from consumers.gateway.page import show_page
from consumers.gateway.requests import RequestLimiter
from consumers.gateway.sse import EventStream
from consumers.gateway.status import Status
from consumers.gateway.tracing import traced
from consumers.tasks import Supervisor
from consumers.web_server import WebServer
from noetl_events.sinks.nats import NatsSink

if TYPE_CHECKING:
    import socket

    from consumers.gateway.auth import LocalOnly, TokenFile
    from consumers.settings import Settings
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.publish.message import PublishCounts

_TRACED: Final = frozenset({"/api/events", "/api/events/batch"})

PATIENCE: Final = 5.0
"""Timeout in seconds for a post to be stored in NATS."""

_GRACE: Final = 20


class Gateway:
    """
    The service behind `noetl-events serve`.

    Args:
        settings: settings of the process.
        connection: connection to NATS; the caller closes it.
        listener: a bound socket, which the gateway closes.
        rule: access rule of the API.

    """

    def __init__(
        self, settings: Settings, connection: Connection, listener: socket.socket, rule: TokenFile | LocalOnly
    ) -> None:
        self.limiter = RequestLimiter()
        self._sink = NatsSink(
            connection,
            subject=settings.stream.template,
            timeout=PATIENCE,
            stream=settings.stream.name,
            message_id=settings.publish.message_id,
        )
        self.ingest = Ingest(self._sink, self.limiter)
        self.hub = Hub(connection, settings.stream.name)
        self._history = StreamHistory(connection, settings.stream.name)
        self.event_stream = EventStream(self.hub, self._history)
        self._status = Status(connection, settings.stream.name, settings.dead_letters.name)
        self.health = GatewayHealth(
            connection,
            hub=self.hub,
            ingest=self.ingest,
            limiter=self.limiter,
            event_stream=self.event_stream,
            sink=self._sink,
        )
        app = traced(AuthMiddleware(self._app(), rule), routes=_TRACED)
        self._server = WebServer(app, listener, event="gateway.listening", grace=_GRACE)

    @property
    def in_flight(self) -> int:
        """Number of requests with events that are not stored yet."""
        return self.limiter.requests

    @property
    def published(self) -> PublishCounts:
        """Counts of the published events."""
        return self._sink.counts

    async def run(self) -> None:
        """Serve until `stop`, then finish the requests in flight."""
        await Supervisor([self._server], background=[self.hub.run]).run()
        await self._sink.aclose()

    async def stop(self) -> None:
        """Accept no more requests, and disconnect the clients of the live stream."""
        await self._server.stop()
        self.hub.stop()

    def _app(self) -> Starlette:
        routes = [
            Route("/api/events", self.ingest.one, methods=["POST"]),
            Route("/api/events/batch", self.ingest.many, methods=["POST"]),
            Route("/api/events/stream", self.event_stream.open),
            Route("/api/executions/{execution_id}", Executions(self._history).show),
            Route("/api/status", self._status.status),
            Route("/api/dead", self._status.dead),
            Route("/healthz", self.health.healthz),
            Route("/readyz", self.health.readyz),
            Route("/metrics", self.health.metrics),
            Route("/openapi.json", show_openapi),
            Route("/", show_page),
        ]
        return Starlette(routes=routes, exception_handlers={ApiError: answer_refused})
