"""
Health checks and metrics of the projector over HTTP.

    GET /healthz   200 while every projector is alive, else 503: restart the process
    GET /readyz    200 while events that arrive now are stored now, else 503: the process recovers without a restart
    GET /metrics   for Prometheus

The endpoint runs in the projector's own event loop, so a blocked loop fails the probe.  The two health checks have the
same body: the state of each projector with its reasons.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from consumers.projector.metrics import ProjectorMetrics
from consumers.web_server import WebServer

if TYPE_CHECKING:
    import socket

    from starlette.requests import Request

    from consumers.health import Report
    from consumers.projector.service import Service

_CLOSING: Final = 1
_CLOSED: Final = 2.0


class Endpoint:
    """
    Serve the health checks and the metrics of *service* on *listener*, and close *listener* at the end.

    Args:
        service: service to report on.
        listener: a bound socket.

    """

    def __init__(self, service: Service, listener: socket.socket) -> None:
        self._service = service
        self._registry = CollectorRegistry()
        self._registry.register(ProjectorMetrics(service))
        ProcessCollector(registry=self._registry)
        routes = [Route("/healthz", self._healthz), Route("/readyz", self._readyz), Route("/metrics", self._metrics)]
        self._server = WebServer(Starlette(routes=routes), listener, event="endpoint.listening", grace=_CLOSING)

    async def run(self) -> None:
        """Serve until cancelled; requests in flight then have a second to finish."""
        serving = asyncio.create_task(self._server.run())
        try:
            await asyncio.shield(serving)
        finally:
            await self._server.stop()
            try:
                await asyncio.wait({serving}, timeout=_CLOSED)
            finally:
                serving.cancel()

    async def _healthz(self, _: Request) -> Response:
        report = self._service.report()
        return _answer(report, good=report.alive)

    async def _readyz(self, _: Request) -> Response:
        report = self._service.report()
        return _answer(report, good=report.ready)

    async def _metrics(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": content_type})


def _answer(report: Report, *, good: bool) -> Response:
    return Response(msgspec.json.encode(report), status_code=200 if good else 503, media_type="application/json")
