"""
Spans to a collector, as the standard variables of OpenTelemetry say.

`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_TRACES_EXPORTER` (`otlp`, `console`, or any
that is installed) turns it on, `OTEL_TRACES_EXPORTER=none` or `OTEL_SDK_DISABLED=true` off.  The SDK itself reads the
others: headers, certificates, sampler, limits, resource.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from importlib.metadata import entry_points
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.sdk.trace import TracerProvider

FLUSH: Final = 2.0
"""Seconds the end of a process waits until the last spans are exported."""

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}

log = structlog.get_logger()


@contextmanager
def exported_traces(service: str) -> Iterator[None]:
    """
    Export the spans of this process, if its environment says so, as those of *service* unless that says otherwise.

    Raises:
        ValueError: there is no such exporter.

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
    """Return the names of the exporters that *environ* asks for."""
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
    # It ends with the daemon, in bounded time, and not at the exit of Python.
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
    # In a thread that dies with the process: a collector that does not answer must not keep it.
    ending = Thread(target=provider.shutdown, daemon=True)
    ending.start()
    ending.join(FLUSH)
    if ending.is_alive():
        log.warning("tracing.unflushed", seconds=FLUSH)
