"""Tracing of the gateway: a span for each post, which continues the client's trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SCOPE: Final = "noetl_events"
_SERVER_ERROR: Final = 500


def traced(app: ASGIApp, *, routes: frozenset[str]) -> ASGIApp:
    """Return *app* with spans for posts to *routes*, or *app* itself if OpenTelemetry is not installed."""
    try:
        import opentelemetry.trace  # noqa: F401  (to check that it is installed)
    except ModuleNotFoundError:
        return app
    return ServerSpans(app, routes)


class ServerSpans:
    """
    Record spans around *app*, for posts to *routes*.

    Without an SDK nothing is recorded, but the client's trace context is still passed on to the emitted events.
    """

    def __init__(self, app: ASGIApp, routes: frozenset[str]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve *scope*."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self._routes:
            await self._app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, get_tracer

        route = scope["path"]
        with get_tracer(_SCOPE).start_as_current_span(
            f"POST {route}",
            context=_context_of(scope),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": "POST", "http.route": route, "url.path": route},
            # The text of an exception may quote an event, so exceptions are not recorded.
            record_exception=False,
        ) as span:
            await self._app(scope, receive, _recording_status(send, span))


def _context_of(scope: Scope) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import (
        TraceContextTextMapPropagator,
    )

    headers = Request(scope).headers
    carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _recording_status(send: Send, span: Any) -> Send:
    from opentelemetry.trace import Status, StatusCode

    async def recording(message: Message) -> None:
        if message["type"] == "http.response.start":
            span.set_attribute("http.response.status_code", message["status"])
            if message["status"] >= _SERVER_ERROR:
                span.set_status(Status(StatusCode.ERROR))
        await send(message)

    return recording
