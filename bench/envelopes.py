"""The events of the benchmarks."""

from __future__ import annotations

from datetime import UTC, datetime

from noetl_events import ExecutorEvent

SUBJECT = "noetl.events.command.completed"
EXECUTIONS = 50


def make_envelopes(count: int, *, first: int = 0) -> list[ExecutorEvent]:
    """Return *count* events of 400 bytes each, of fifty executions, from number *first* up."""
    now = datetime.now(UTC)
    return [
        ExecutorEvent(
            execution_id=478775660589088776 + number % EXECUTIONS,
            event_type="command.completed",
            step="fetch_calendar",
            status="COMPLETED",
            created_at=now,
            context={"result": {"items": number % 10, "text": "x" * 150}},
            event_id=327432001294827520 + number,
            worker_id="worker-7",
            meta={"attempts": 0},
        )
        for number in range(first, first + count)
    ]
