"""Spans kept in memory, and a bench for projectors."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from noetl_events.jetstream.declarations import TRIALS
from noetl_events.jetstream.streams import ensure_stream
from tests.projector.bench import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration


@cache
def _exporter() -> InMemorySpanExporter:
    # OpenTelemetry accepts one provider per process.
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Return the exporter with the spans of this test."""
    exporter = _exporter()
    exporter.clear()
    yield exporter
    exporter.clear()


@pytest.fixture
async def bench(connection: Connection, stream: StreamDeclaration, dead_stream: StreamDeclaration) -> Bench:
    """Return an empty stream and an empty dead-letter stream."""
    await ensure_stream(connection, TRIALS)
    return Bench(connection, stream, dead_stream)
