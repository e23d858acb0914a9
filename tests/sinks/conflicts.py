"""Events that share a key, and what a sink says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from noetl_events import EventsRejected
from noetl_events.testing import make_event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events import EventSink, ExecutorEvent


def another(event_id: int, **changes: Any) -> ExecutorEvent:
    """Return an event that shares the key of `make_event(event_id)`, and is another one, of the same moment."""
    return make_event(event_id, **{"event_type": "step.enter", "context": {"other": event_id}} | changes)


async def emit(sink: EventSink, events: Sequence[ExecutorEvent]) -> dict[int, str]:
    """Emit *events*, and return the reasons of the conflicts by their place; nothing else may be rejected."""
    try:
        await sink.emit_batch(events)
    except EventsRejected as exc:
        if exc.conflicts != {*exc.reasons}:
            raise
        return exc.reasons
    return {}
