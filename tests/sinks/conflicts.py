"""Events that share a key, and the conflicts that a sink reports for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from noetl_events import EventsRejected
from noetl_events.testing import make_event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events import EventSink, ExecutorEvent


def another(event_id: int, **changes: Any) -> ExecutorEvent:
    """Return a different event with the key and time of `make_event(event_id)`."""
    return make_event(event_id, **{"event_type": "step.enter", "context": {"other": event_id}} | changes)


async def emit(sink: EventSink, events: Sequence[ExecutorEvent]) -> dict[int, str]:
    """Emit *events*, return the reasons of the conflicts by index, and assert that there is no other rejection."""
    try:
        await sink.emit_batch(events)
    except EventsRejected as exc:
        if exc.conflicts != {*exc.reasons}:
            raise
        return exc.reasons
    return {}
