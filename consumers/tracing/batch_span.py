"""One span for each batch a projector carries, linked to the spans its events were emitted in."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.trace import Link, SpanContext

    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from noetl_events.jetstream.delivery import Message

MAX_LINKS: Final = 128
"""What OpenTelemetry keeps of a span by default."""

_SCOPE: Final = "noetl_events"


class BatchSpan:
    """What is said of a batch; of a span there is not, nothing."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def settle(self, *, stored: int, buried: int) -> None:
        """Note what became of its messages."""
        if self._span is not None:
            self._span.set_attributes({"noetl.stored": stored, "noetl.buried": buried})


@contextmanager
def batch_span(consumer: ConsumerDeclaration, messages: Sequence[Message]) -> Iterator[BatchSpan]:
    """Yield the current span of *messages*, with counts and names and nothing of what is in them."""
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
        # The words of an exception may quote an event.
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield BatchSpan(span)
        except BaseException as exc:
            # A batch that was cancelled is not settled either.
            _fail(span, exc)
            raise


def links_of(messages: Sequence[Message]) -> list[Link]:
    """Return a link to each span that *messages* were emitted in, once, the first `MAX_LINKS` of them."""
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
    # Clients in Go write it with a capital.
    said = {name.lower(): value for name, value in (message.headers or {}).items()}
    if "traceparent" not in said:
        return None
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import (
        TraceContextTextMapPropagator,
    )

    carrier = {name: said[name] for name in ("traceparent", "tracestate") if name in said}
    # An empty context: one that cannot be read must not become a link to the span that is current here.
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
    """Return the tracer of this process, or None where nobody has set up tracing."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return provider.get_tracer(_SCOPE)
