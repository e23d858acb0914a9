"""`/healthz`, `/readyz` and `/metrics`: health checks and metrics of the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

from consumers.health import Health, Report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric
    from starlette.requests import Request

    from consumers.gateway.hub import Hub
    from consumers.gateway.ingest import Ingest
    from consumers.gateway.requests import RequestLimiter
    from consumers.gateway.sse import EventStream
    from noetl_events.jetstream.connection import Connection
    from noetl_events.sinks.nats import NatsSink


class GatewayHealth:
    """The health checks of a gateway, answered in its own event loop, so a blocked loop fails them."""

    def __init__(
        self,
        connection: Connection,
        *,
        hub: Hub,
        ingest: Ingest,
        limiter: RequestLimiter,
        event_stream: EventStream,
        sink: NatsSink,
    ) -> None:
        self._connection = connection
        self._hub = hub
        self._ingest = ingest
        self._limiter = limiter
        self._event_stream = event_stream
        self._sink = sink
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def report(self) -> Report:
        """Return the health in the form of a projector's report, for `noetl-events health`."""
        connected, trouble = self._connection.is_connected, self._connection.trouble
        reason = trouble or self._hub.reason
        part = "nats" if trouble else "stream" if reason else ""
        health = Health(ready=not part, part=part, reason=reason)
        return Report(alive=True, ready=health.ready, connected=connected, projectors={"gateway": health})

    async def healthz(self, _: Request) -> Response:
        """Answer the liveness check, which always succeeds."""
        return self._answer(good=True)

    async def readyz(self, _: Request) -> Response:
        """Answer the readiness check: whether the gateway can store and stream events."""
        return self._answer(good=self.report().ready)

    async def metrics(self, request: Request) -> Response:
        """Return the metrics for Prometheus."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": content_type})

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with its current value."""
        yield CounterMetricFamily("noetl_gateway_stored", "Events stored.", self._ingest.stored)
        refused = CounterMetricFamily("noetl_gateway_refused", "Refused posts, by code.", labels=["code"])
        for code, count in self._ingest.refused.items():
            refused.add_metric([code], count)
        yield refused
        yield GaugeMetricFamily("noetl_gateway_in_hand", "Posts in flight.", self._limiter.requests)
        yield GaugeMetricFamily("noetl_gateway_clients", "Connected clients of the live stream.", self._hub.clients)
        failures = "Failed attempts to read the stream."
        yield CounterMetricFamily("noetl_gateway_stream_failures", failures, self._hub.failures)
        yield CounterMetricFamily(
            "noetl_gateway_dropped", "Clients dropped because they read too slowly.", self._event_stream.dropped
        )
        counts = self._sink.counts
        yield CounterMetricFamily(
            "noetl_gateway_sent_again",
            "Events published again because the first attempt was in doubt.",
            counts.sent_again,
        )
        fell_back = "1 after the stream refused batch publishing."
        yield GaugeMetricFamily("noetl_gateway_fell_back", fell_back, counts.fell_back)
        yield GaugeMetricFamily("noetl_gateway_ready", "1 if the gateway is ready.", self.report().ready)

    def _answer(self, *, good: bool) -> Response:
        body = msgspec.json.encode(self.report())
        return Response(body, 200 if good else 503, media_type="application/json")
