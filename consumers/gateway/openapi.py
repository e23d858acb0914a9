"""`GET /openapi.json`: the OpenAPI document of the API."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import Response

from consumers.gateway.requests import MAX_EVENTS

if TYPE_CHECKING:
    from starlette.requests import Request

_ID: Final = {
    "anyOf": [
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        {"type": "string", "pattern": "^[0-9]{1,18}$"},
    ]
}
_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_EVENT: Final = {
    "type": "object",
    "required": ["execution_id", "event_type", "step", "status", "created_at", "context"],
    "properties": {
        "execution_id": _ID,
        "event_type": _TEXT | {"description": "Or `name`."},
        "step": _TEXT | {"description": "Or `node_name`."},
        "status": _TEXT,
        "created_at": {"type": "string", "format": "date-time"},
        "context": {"description": "Any JSON. Or `payload`."},
        "event_id": _ID | {"description": "The idempotency key; generated if missing."},
        "worker_id": _TEXT,
        "meta": {"description": "Any JSON."},
    },
}
_BATCH: Final = {
    "type": "object",
    "required": ["events"],
    "properties": {
        "execution_id": _ID,
        "worker_id": _TEXT,
        "events": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_EVENTS,
            "items": {"$ref": "#/components/schemas/Event"},
        },
    },
}
_ERROR: Final = {
    "type": "object",
    "required": ["status", "code", "message", "errors"],
    "properties": {
        "status": {"const": "error"},
        "code": _TEXT,
        "message": _TEXT,
        "errors": {"type": "array", "items": {"type": "object", "required": ["reason"]}},
    },
}
_REFUSALS: Final = {
    400: "The request is invalid.",
    401: "The token is missing or wrong.",
    403: "The request comes from a page of another site.",
    408: "The body arrived too slowly.",
    409: "`errors` lists events with the ids of other events; the rest of the request is stored.",
    413: "The body or the batch is too large.",
    422: "`errors` lists what is invalid; do not retry.",
    429: "Too many requests are in flight; retry after `Retry-After`.",
    503: "NATS is unavailable; retry after `Retry-After`.",
}


async def show_openapi(_: Request) -> Response:
    """Return the OpenAPI document as a response."""
    return Response(msgspec.json.encode(document()), media_type="application/json")


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "noetl-events", "version": version("noetl-events")},
        "security": [{"token": []}, {}],
        "paths": {
            "/api/events": {"post": _posting("Store an event.", "Event", 200, ["status", "event_id"])},
            "/api/events/batch": {"post": _batch()},
            "/api/events/stream": {"get": _getting("Events as they are stored (SSE).", _STREAM, "text/event-stream")},
            "/api/executions/{execution_id}": {"get": _getting("The events of one execution.", _EXECUTION)},
            "/api/status": {"get": _getting("The stream and its consumers.", [])},
            "/api/dead": {"get": _getting("The newest dead letters.", [_query("limit", _NUMBER)])},
        },
        "components": {
            "schemas": {"Event": _EVENT, "Batch": _BATCH, "Error": _ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _query(name: str, schema: dict[str, Any], place: str = "query") -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


_STREAM: Final = [
    _query("execution_id", _NUMBER),
    _query("event_type", _TEXT),
    _query("from", {"enum": ["start", "new"]}),
    _query("last_event_id", _NUMBER),
]
_EXECUTION: Final = [_query("execution_id", _NUMBER, "path"), _query("after", _NUMBER), _query("limit", _NUMBER)]


def _batch() -> dict[str, Any]:
    posting = _posting("Store up to 256 events.", "Batch", 202, ["status", "request_id", "event_ids", "duplicate"])
    return posting | {"parameters": [_query("Idempotency-Key", _TEXT | {"maxLength": 256}, "header")]}


def _posting(summary: str, body: str, status: int, answer: list[str]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{body}"}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": _responses(status, "Stored.", "application/json", {"type": "object", "required": answer}),
    }


def _getting(summary: str, parameters: list[Any], media_type: str = "application/json") -> dict[str, Any]:
    return {"summary": summary, "parameters": parameters, "responses": _responses(200, "Success.", media_type, {})}


def _responses(status: int, words: str, media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    refusals = {str(code): {"description": text, "content": error} for code, text in _REFUSALS.items()}
    return {str(status): {"description": words, "content": {media_type: {"schema": schema}}}} | refusals
