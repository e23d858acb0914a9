"""The fuzz targets and their promises: each target returns its outcome as a word."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.routing import Route

from consumers.gateway.errors import ApiError, answer_refused
from consumers.gateway.ingest import Ingest
from consumers.gateway.requests import RequestLimiter
from noetl_events import ExecutorEvent, MalformedEvent, decode, encode
from noetl_events.json_values import MAX_INT64, MIN_INT64
from noetl_events.sinks.memory import MemorySink

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_ANSWERS: Final = {200, 202, 400, 413, 422}
_LOOP: Final = asyncio.new_event_loop()
_NUMBERS: Final = re.compile(r"[0-9]+|'[^']*'|\"[^\"]*\"|0x\w+")


def decoding(data: bytes) -> str:
    """Decode: an event that can be written and read again, or MalformedEvent with a printable reason."""
    try:
        event = decode(data)
    except MalformedEvent as exc:
        reason = str(exc)
        reason.encode()
        assert ":" in reason, f"names no field: {reason}"
        assert len(reason) < 1_000, f"endless: {reason[:100]}"
        return _NUMBERS.sub("", reason)[:60]
    _require_sound(event, data)
    return f"event {sorted(name for name in ('event_id', 'worker_id', 'meta') if getattr(event, name) is not None)}"


def _require_sound(event: ExecutorEvent, data: bytes) -> None:
    # The last value of a repeated field counts, and the earlier ones are not read.
    body = json.loads(data.decode(errors="replace"))
    assert MIN_INT64 <= event.execution_id <= MAX_INT64
    # No id is rounded on the way: Python's own reader has integers of any size.
    assert type(body["execution_id"]) in (int, str)
    assert event.execution_id == int(body["execution_id"])
    assert event.event_id is None or event.event_id == int(body["event_id"])
    written = encode(event)
    again = decode(written)
    assert encode(again) == written
    assert (again.execution_id, again.event_id, again.created_at) == (
        event.execution_id,
        event.event_id,
        event.created_at,
    )
    assert json.loads(written)["context"] == body.get("context", body.get("payload"))


def posting_one(data: bytes) -> str:
    """Post an event: a success once it is stored, or a refusal in JSON."""
    return _run(_post("/api/events", data))


def posting_many(data: bytes) -> str:
    """Post several events: a success once all are stored, or a refusal and none is."""
    return _run(_post("/api/events/batch", data))


async def _post(path: str, data: bytes) -> str:
    sink = MemorySink()
    ingest = Ingest(sink, RequestLimiter())
    app = Starlette(
        routes=[
            Route("/api/events", ingest.one, methods=["POST"]),
            Route("/api/events/batch", ingest.many, methods=["POST"]),
        ],
        exception_handlers={ApiError: answer_refused},
    )
    status, answer = await _ask(app, path, data)
    assert status in _ANSWERS, status
    stored = len(sink.events)
    if status in (200, 202):
        ids = answer["event_ids"] if "event_ids" in answer else [answer["event_id"]]
        assert stored == len(set(ids)) > 0, f"{stored} stored, {len(ids)} answered"
    else:
        assert answer["status"] == "error"
        assert not stored, f"{status}, but {stored} stored"
    return f"{status} {_NUMBERS.sub('', str(answer.get('message', '')))[:60]}"


async def _ask(app: Starlette, path: str, data: bytes) -> tuple[int, dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    half = len(data) // 2
    parts = [
        {"type": "http.request", "body": data[:half], "more_body": True},
        {"type": "http.request", "body": data[half:], "more_body": False},
    ]

    async def receive() -> dict[str, Any]:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"idempotency-key", data[:8].hex().encode())]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "root_path": ""}
    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body)


def _run(asking: Coroutine[Any, Any, str]) -> str:
    """Run a coroutine that never waits for I/O; a loop for each input would cost more than the input."""
    return _LOOP.run_until_complete(asking)


TARGETS: Final[dict[str, Callable[[bytes], str]]] = {
    "decode": decoding,
    "one": posting_one,
    "many": posting_many,
}
