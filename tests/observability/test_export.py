"""Spans are exported as OpenTelemetry's standard variables say."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from consumers.tracing import exported_traces, exporter_names

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = """
from opentelemetry import trace
from consumers.tracing import exported_traces
with exported_traces("noetl-projector"):
    with trace.get_tracer("x").start_as_current_span("the span"):
        pass
"""


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        pytest.param({}, [], id="nothing said"),
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h"}, ["otlp"], id="an endpoint"),
        pytest.param({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h"}, ["otlp"], id="one for traces"),
        pytest.param({"OTEL_TRACES_EXPORTER": "otlp, console"}, ["otlp", "console"], id="two by name"),
        pytest.param({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h"}, [], id="none"),
        pytest.param({"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"}, [], id="disabled"),
    ],
)
def test_exporters(environ: dict[str, str], names: list[str]) -> None:
    """The variables choose the exporters."""
    assert exporter_names(environ) == names


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_TRACES_EXPORTER", "telepathy"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "pigeon")]
)
def test_unknown_exporter(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """An unknown exporter is refused with the name of the variable."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"{name}: '{value}'"), exported_traces("x"):
        pass


def test_last_span_arrives() -> None:
    """A daemon exports its last spans before it ends, to the endpoint, with the configured headers."""
    with collector() as (url, received):
        run(OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_EXPORTER_OTLP_HEADERS="authorization=CANARY")

    [(path, authorization, body)] = received
    assert (path, authorization) == ("/v1/traces", "CANARY")
    assert b"the span" in body
    assert b"noetl-projector" in body


def test_silent_collector_keeps_nobody() -> None:
    """A silent collector does not delay the end of a daemon."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        out = run(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{deaf.getsockname()[1]}")

    assert "tracing.unflushed" in out


def run(**environ: str) -> str:
    """Run the program, and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout + done.stderr


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, str | None, bytes]]]]:
    """Run a collector, and yield its URL and the spans it receives."""
    received: list[tuple[str, str | None, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            unpacked = gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body
            received.append((self.path, self.headers["authorization"], unpacked))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()
            serving.join()
