"""
The W3C trace context of the caller, as headers.

This module does not import OpenTelemetry: a process with tracing has imported it, and any other has no span.
"""

from __future__ import annotations

import sys
from typing import Final

# The length that every tracing system has to support (W3C Trace Context, 3.3.1.5); a message has no room for 16 KiB.
_MAX_STATE: Final = 512


def trace_headers() -> dict[str, str]:
    """Return `traceparent`, and `tracestate` if there is one, of the current span; empty unless it is sampled."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    context = trace.get_current_span().get_span_context()
    if not (context.is_valid and context.trace_flags.sampled):
        return {}
    headers = {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}
    state = context.trace_state.to_header()
    return headers | {"tracestate": state} if 0 < len(state) <= _MAX_STATE else headers


def trace_lines() -> bytes:
    """Return the headers of `trace_headers` as lines of a NATS header."""
    return "".join(f"{name}: {value}\r\n" for name, value in trace_headers().items()).encode("ascii", "replace")
