"""The metrics of a projector and of a gateway, read without running either."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry

from consumers.gateway.app import Gateway
from consumers.gateway.auth import LocalOnly
from consumers.projector.metrics import ProjectorMetrics
from consumers.projector.service import Service
from consumers.settings import load
from noetl_events.jetstream.connection import Connection

if TYPE_CHECKING:
    from prometheus_client.core import Metric

SUFFIXES: Final = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "info": ("_info",),
    "gauge": ("",),
}
"""The suffixes that Prometheus appends to the name of each type."""


def served_metrics() -> list[Metric]:
    """Return every metric of the project, as it is served."""
    settings = load({}).settings
    connection = Connection(settings.connect)
    registry = CollectorRegistry()
    registry.register(ProjectorMetrics(Service(settings, connection, ["memory:"], durable="projector")))
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        registry.register(Gateway(settings, connection, listener, LocalOnly()).health)
        return list(registry.collect())
