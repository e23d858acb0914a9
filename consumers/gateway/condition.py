"""`/healthz`, `/readyz` and `/metrics`: whether the gateway is of use now, and its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

from consumers.health.verdict import Health, Report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric
    from starlette.requests import Request

    from consumers.gateway.service import Gateway
    from noetl_events.jetstream.connection import Connection


class Condition:
    """Tell how *gateway* is; in its own loop, so that one that hangs does not answer."""

    def __init__(self, gateway: Gateway, connection: Connection) -> None:
        self._gateway = gateway
        self._connection = connection
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def report(self) -> Report:
        """Return it in the form of a projector, for `noetl-events health`."""
        connected, trouble = self._connection.is_connected, self._connection.trouble
        reason = trouble or self._gateway.hub.reason
        part = "nats" if trouble else "stream" if reason else ""
        health = Health(ready=not part, part=part, reason=reason)
        return Report(alive=True, ready=health.ready, connected=connected, projectors={"gateway": health})

    async def healthz(self, _: Request) -> Response:
        """Say that it lives."""
        return self._answer(good=True)

    async def readyz(self, _: Request) -> Response:
        """Say whether it takes events and streams them."""
        return self._answer(good=self.report().ready)

    async def metrics(self, request: Request) -> Response:
        """Return the numbers for Prometheus."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": content_type})

    def collect(self) -> Iterator[Metric]:
        """Yield every metric as it is now."""
        gateway = self._gateway
        yield CounterMetricFamily("noetl_gateway_stored", "Events answered with a success.", gateway.ingest.stored)
        refused = CounterMetricFamily("noetl_gateway_refused", "Posts refused, by code.", labels=["code"])
        for code, count in gateway.ingest.refused.items():
            refused.add_metric([code], count)
        yield refused
        yield GaugeMetricFamily("noetl_gateway_in_hand", "Posts not answered yet.", gateway.intake.requests)
        yield GaugeMetricFamily("noetl_gateway_clients", "Clients of the stream.", gateway.hub.clients)
        failures = "Attempts to read the stream that were refused or cut off."
        yield CounterMetricFamily("noetl_gateway_stream_failures", failures, gateway.hub.failures)
        yield CounterMetricFamily("noetl_gateway_dropped", "Clients that read too slowly.", gateway.streaming.dropped)
        counts = gateway.published
        yield CounterMetricFamily("noetl_gateway_sent_again", "Events published again, to be sure.", counts.sent_again)
        fell_back = "1 once the stream has shown that it takes no batches."
        yield GaugeMetricFamily("noetl_gateway_fell_back", fell_back, counts.fell_back)
        yield GaugeMetricFamily("noetl_gateway_ready", "1 while it is of use.", self.report().ready)

    def _answer(self, *, good: bool) -> Response:
        body = msgspec.json.encode(self.report())
        return Response(body, 200 if good else 503, media_type="application/json")
