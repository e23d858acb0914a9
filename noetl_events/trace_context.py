"""
The W3C trace context of whoever calls, as headers.

Nothing here imports OpenTelemetry: a process that traces has imported it, and in one that has not there is no span.
"""

from __future__ import annotations

import sys
from typing import Final

# What every tracing system has to pass on (W3C Trace Context, 3.3.1.5); a message has no room for 16 KiB of it.
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
    """Return the same as lines of a NATS header."""
    return "".join(f"{name}: {value}\r\n" for name, value in trace_headers().items()).encode("ascii", "replace")
