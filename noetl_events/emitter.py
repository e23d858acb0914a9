"""An execution's view of a sink."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from noetl_events.envelope import ExecutorEvent
from noetl_events.ids import process_ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from noetl_events.json_values import Json
    from noetl_events.sink import EventSink


def _utc_now() -> datetime:
    return datetime.now(UTC)


class EventEmitter:
    """
    Stamp what happened in one execution with time, id and worker, and emit it to *sink*.

    Args:
        execution_id: the execution all events belong to.
        sink: where they go; it stays open.
        worker_id: written into each event when given.
        new_id: makes an event id; by default one generator a process and worker, on a node hashed from *worker_id*.
        now: the time of an event.

    """

    def __init__(
        self,
        execution_id: int,
        sink: EventSink,
        *,
        worker_id: str | None = None,
        new_id: Callable[[], int] | None = None,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self.execution_id = execution_id
        self.sink = sink
        self.worker_id = worker_id
        self._new_id = new_id or process_ids(worker_id)
        self._now = now

    async def emit(self, event_type: str, step: str, status: str, context: Json, *, meta: Json = None) -> ExecutorEvent:
        """
        Emit one event and return it as emitted; when this returns it is durable.

        Raises:
            SinkUnavailable: nothing is known of it.  To try again without a double, emit the same event: make it with
                `stamp` and keep it until `sink.emit` returns.
            EventsRejected: the sink will never take it, for instance because *context* is no JSON.

        """
        event = self.stamp(event_type, step, status, context, meta=meta)
        await self.sink.emit(event)
        return event

    def stamp(self, event_type: str, step: str, status: str, context: Json, *, meta: Json = None) -> ExecutorEvent:
        """Return the event without emitting it: for a caller that emits it again after `SinkUnavailable`."""
        return ExecutorEvent(
            execution_id=self.execution_id,
            event_type=event_type,
            step=step,
            status=status,
            created_at=self._now(),
            context=context,
            event_id=self._new_id(),
            worker_id=self.worker_id,
            meta=meta,
        )
