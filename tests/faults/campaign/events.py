"""Events with every field derived from their two ids: a stored one can be compared without a copy."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import blake2b

from msgspec import Raw, structs

from consumers.verification.ledger import checksum
from noetl_events import ExecutorEvent
from noetl_events.ids import EPOCH_MS
from noetl_events.json_values import encode_value

TYPES = ("command.issued", "command.started", "call.done", "step.exit", "command.completed")


def event_of(event_id: int, execution_id: int) -> ExecutorEvent:
    """Return the only event with these ids."""
    ms = EPOCH_MS + (event_id >> 22)
    digest = blake2b(f"{execution_id}:{event_id}".encode()).hexdigest()
    return ExecutorEvent(
        execution_id=execution_id,
        event_type=TYPES[event_id % len(TYPES)],
        step=f"step_{digest[0]}",
        status="COMPLETED",
        created_at=datetime.fromtimestamp(ms / 1_000, UTC),
        context={"result": {"digest": digest, "number": event_id % 1_000}},
        event_id=event_id,
        worker_id=f"worker-{digest[1]}",
        meta={"attempts": event_id % 3},
    )


def expected_checksum(event_id: int, execution_id: int) -> int:
    """Return the checksum of the event with these ids."""
    event = event_of(event_id, execution_id)
    context, meta = Raw(encode_value(event.context)), Raw(encode_value(event.meta))
    return checksum(structs.replace(event, context=context, meta=meta))
