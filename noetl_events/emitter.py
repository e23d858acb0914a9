"""An emitter of the events of one execution."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from noetl_events.envelope import ExecutorEvent, MalformedEvent, with_encoded_payload
from noetl_events.ids import process_ids
from noetl_events.sink import EventsRejected, SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from noetl_events.json_values import Json
    from noetl_events.sink import EventSink


def _utc_now() -> datetime:
    return datetime.now(UTC)


class EventEmitter:
    """
    Stamp events of one execution with time, id and worker, and emit them to *sink*.

    Args:
        execution_id: id of the execution.
        sink: sink for the events; it is not closed here.
        worker_id: id of the worker for each event; None for none.
        new_id: function that returns an event id; the generator of this process by default.
        now: function that returns the time of an event.
        patience: seconds of retries after a first failure.  The last attempt may take the sink's own timeout longer; 0
            means a single attempt.

    Raises:
        ValueError: the environment variable for the node is invalid; see `noetl_events.ids.configured_node`.

    """

    def __init__(
        self,
        execution_id: int,
        sink: EventSink,
        *,
        worker_id: str | None = None,
        new_id: Callable[[], int] | None = None,
        now: Callable[[], datetime] = _utc_now,
        patience: float = 60.0,
    ) -> None:
        self.execution_id = execution_id
        self.sink = sink
        self.worker_id = worker_id
        self._new_id = new_id or process_ids()
        self._now = now
        self._patience = patience

    async def emit(self, event_type: str, step: str, status: str, context: Json, *, meta: Json = None) -> ExecutorEvent:
        """
        Emit an event, and return it as emitted once it is durable.

        The event is stamped once, and the same bytes are retried while the sink is unavailable, up to *patience*.

        Raises:
            SinkUnavailable: the outcome is unknown.  The attribute `event` has the stamped event: emit it with
                `emit_again`, and it is stored once.  A second `emit` would create another event.
            EventsRejected: the sink will never accept the event, for instance because *context* is not JSON.

        """
        event = self.stamp(event_type, step, status, context, meta=meta)
        await self.emit_again(event)
        return event

    async def emit_again(self, event: ExecutorEvent) -> None:
        """
        Emit *event* as it is stamped, and retry the same bytes while the sink is unavailable, up to *patience*.

        Raises:
            SinkUnavailable: the outcome is unknown; `SinkUnavailable.event` has the event.
            EventsRejected: the sink will never accept the event.

        """
        try:
            event = with_encoded_payload(event)
        except MalformedEvent as exc:
            raise EventsRejected({0: str(exc)}) from None
        try:
            await self.sink.emit(event)
        except SinkUnavailable as exc:
            await self._try_again(event, exc)

    async def _try_again(self, event: ExecutorEvent, failure: SinkUnavailable) -> None:
        from noetl_events.retry import Backoff, Retry  # noqa: PLC0415  (structlog would triple the import time)

        try:
            async for attempt in Retry(SinkUnavailable, backoff=Backoff(maximum=5.0), patience=self._patience):
                with attempt:
                    if attempt.attempts == 1:
                        # The caller has made this attempt, so only its failure is handled here.
                        raise failure
                    await self.sink.emit(event)
        except SinkUnavailable as exc:
            exc.event = event
            raise

    def stamp(self, event_type: str, step: str, status: str, context: Json, *, meta: Json = None) -> ExecutorEvent:
        """Return a stamped event without emitting it, for a caller that stores it first and then calls `emit_again`."""
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
