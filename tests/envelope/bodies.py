"""Bodies as writers send them, and the values of their payloads."""

from __future__ import annotations

import json
from typing import Any

import msgspec

NATIVE: dict[str, Any] = {
    "execution_id": 5,
    "event_type": "step.enter",
    "step": "s",
    "status": "STARTED",
    "created_at": "2026-05-31T00:00:00Z",
    "context": {},
}


def body(**changes: Any) -> bytes:
    """Return a native body with *changes*; a field changed to ... is omitted."""
    return json.dumps({name: value for name, value in (NATIVE | changes).items() if value is not ...}).encode()


def raw_body(fields: str) -> bytes:
    """Return a native body with the JSON text *fields* at its end, where the last of two equal keys counts."""
    return json.dumps(NATIVE).encode()[:-1] + b", " + fields.encode() + b"}"


def value(raw: Any) -> Any:
    """Return the value of a decoded payload."""
    return msgspec.json.decode(raw)
