"""
Tracing of the daemons: the exporter, and the projector's span for each batch, linked to the spans of its events.

`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_TRACES_EXPORTER` (`otlp`, `console`, or any
installed one) enables it, `OTEL_TRACES_EXPORTER=none` or `OTEL_SDK_DISABLED=true` disables it.  The SDK itself reads
the other variables: headers, certificates, sampler, limits, resource.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from importlib.metadata import entry_points
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Link, SpanContext

    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from noetl_events.jetstream.message import Message

FLUSH: Final = 2.0
"""Timeout in seconds for exporting the last spans at the end of a process."""

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}

log = structlog.get_logger()


@contextmanager
def exported_traces(service: str) -> Iterator[None]:
    """
    Export the spans of this process, if its environment enables it, under the name *service* by default.

    Raises:
        ValueError: the exporter is not installed.

    """
    provider = _provider(service, os.environ)
    if provider is None:
        yield
        return
    from opentelemetry import trace

    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        _shut_down(provider)


def exporter_names(environ: Mapping[str, str]) -> list[str]:
    """Return the names of the exporters that *environ* enables."""
    asked = environ.get("OTEL_TRACES_EXPORTER") or ("otlp" if any(map(environ.get, _ENDPOINTS)) else "none")
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    return [name for name in (part.strip() for part in asked.split(",")) if name not in ("", "none")]


def _provider(service: str, environ: Mapping[str, str]) -> TracerProvider | None:
    names = exporter_names(environ)
    if not names:
        return None
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError:
        log.warning("tracing.missing", reason="OTEL_ asks for traces; pip install 'noetl-events[otel-sdk]'")
        return None
    # The daemon shuts it down with a timeout, instead of Python at exit.
    provider = TracerProvider(resource=Resource.create(_named(service, environ)), shutdown_on_exit=False)
    for name in names:
        provider.add_span_processor(BatchSpanProcessor(_exporter(name, environ)))
    log.info("tracing.started", exporters=names)
    return provider


def _named(service: str, environ: Mapping[str, str]) -> dict[str, str]:
    said = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return {} if said else {"service.name": service}


def _exporter(name: str, environ: Mapping[str, str]) -> Any:
    known = entry_points(group="opentelemetry_traces_exporter")
    chosen = _otlp(environ) if name == "otlp" else name
    if chosen not in known.names:
        raise ValueError(
            f"OTEL_TRACES_EXPORTER: {name!r}: no {chosen!r} installed; known: otlp, {', '.join(sorted(known.names))}"
        )
    return known[chosen].load()()


def _otlp(environ: Mapping[str, str]) -> str:
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol and protocol not in _PROTOCOLS:
        raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL: {protocol!r} is none of {', '.join(_PROTOCOLS)}")
    return _PROTOCOLS[protocol or "http/protobuf"]


def _shut_down(provider: TracerProvider) -> None:
    # A daemon thread, because a collector that hangs must not delay the exit of the process.
    ending = Thread(target=provider.shutdown, daemon=True)
    ending.start()
    ending.join(FLUSH)
    if ending.is_alive():
        log.warning("tracing.unflushed", seconds=FLUSH)


MAX_LINKS: Final = 128
"""OpenTelemetry's default limit of links per span."""

_SCOPE: Final = "noetl_events"


class BatchSpan:
    """The result of a batch, recorded in its span if there is one."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def settle(self, *, stored: int, dead_letters: int) -> None:
        """Record the results of the batch's messages."""
        if self._span is not None:
            self._span.set_attributes({"noetl.stored": stored, "noetl.buried": dead_letters})


@contextmanager
def batch_span(consumer: ConsumerDeclaration, messages: Sequence[Message]) -> Iterator[BatchSpan]:
    """Yield the current span of *messages*, with counts and names, but no content."""
    tracer = _tracer()
    if tracer is None:
        yield BatchSpan()
        return
    from opentelemetry.trace import SpanKind

    with tracer.start_as_current_span(
        f"process {consumer.stream}",
        kind=SpanKind.CONSUMER,
        links=links_of(messages),
        attributes=_attributes(consumer, messages),
        # The text of an exception may quote an event, so exceptions are not recorded.
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield BatchSpan(span)
        except BaseException as exc:
            # A cancelled batch is not acknowledged either, so it counts as failed.
            _fail(span, exc)
            raise


def links_of(messages: Sequence[Message]) -> list[Link]:
    """Return a link to each span that emitted one of *messages*, without duplicates, the first `MAX_LINKS` of them."""
    from opentelemetry.trace import Link

    found: dict[tuple[int, int], Link] = {}
    for message in messages:
        if len(found) == MAX_LINKS:
            break
        context = _context_of(message)
        if context is not None and context.is_valid:
            found.setdefault((context.trace_id, context.span_id), Link(context))
    return list(found.values())


def _context_of(message: Message) -> SpanContext | None:
    # Clients in Go capitalise the header, so names are compared in lower case.
    said = {name.lower(): value for name, value in (message.headers or {}).items()}
    if "traceparent" not in said:
        return None
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import (
        TraceContextTextMapPropagator,
    )

    carrier = {name: said[name] for name in ("traceparent", "tracestate") if name in said}
    # The context is empty, so that an unreadable header does not link to the current span.
    return get_current_span(TraceContextTextMapPropagator().extract(carrier, _no_context())).get_span_context()


def _no_context() -> Any:
    from opentelemetry.context import Context

    return Context()


def _attributes(consumer: ConsumerDeclaration, messages: Sequence[Message]) -> dict[str, str | int]:
    return {
        "messaging.system": "nats",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": consumer.stream,
        "messaging.consumer.group.name": consumer.name,
        "messaging.batch.message_count": len(messages),
    }


def _fail(span: Any, exc: BaseException) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", type(exc).__qualname__)
    span.set_status(Status(StatusCode.ERROR))


def _tracer() -> Any:
    """Return the tracer of this process, or None if tracing is not set up."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return provider.get_tracer(_SCOPE)
