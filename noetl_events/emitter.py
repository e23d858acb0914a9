"""An execution's view of a sink."""

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
    Stamp what happened in one execution with time, id and worker, and emit it to *sink*.

    Args:
        execution_id: the execution all events belong to.
        sink: where they go; it stays open.
        worker_id: written into each event when given.
        new_id: makes an event id; by default the one generator of this process.
        now: the time of an event.
        patience: seconds to go on trying after a first failure.  The last attempt may take the sink's own timeout
            longer; 0 tries once.

    Raises:
        ValueError: the environment sets a node that is none; see `noetl_events.ids.configured_node`.

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
        Emit one event and return it as emitted; when this returns it is durable.

        The event is stamped once, and the same bytes are tried again while the sink is away, until *patience* ends.

        Raises:
            SinkUnavailable: nothing is known of it.  Its attribute `event` is the event as it was tried: emit that one
                again, with `emit_again`, and it is stored once.  Another `emit` would make another event.
            EventsRejected: the sink will never take it, for instance because *context* is no JSON.

        """
        event = self.stamp(event_type, step, status, context, meta=meta)
        await self.emit_again(event)
        return event

    async def emit_again(self, event: ExecutorEvent) -> None:
        """
        Emit *event* as it is stamped, and try the same bytes again while the sink is away, until *patience* ends.

        Raises:
            SinkUnavailable: nothing is known of it; `SinkUnavailable.event` is it.
            EventsRejected: the sink will never take it.

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
        from noetl_events.retry import Backoff, Retry  # noqa: PLC0415  (structlog triples the time of our import)

        try:
            async for attempt in Retry(SinkUnavailable, backoff=Backoff(maximum=5.0), patience=self._patience):
                with attempt:
                    if attempt.attempts == 1:
                        # This attempt has been made: what is left of it is to wait as it asks.
                        raise failure
                    await self.sink.emit(event)
        except SinkUnavailable as exc:
            exc.event = event
            raise

    def stamp(self, event_type: str, step: str, status: str, context: Json, *, meta: Json = None) -> ExecutorEvent:
        """Return the event without emitting it, for a caller that keeps it first; `emit_again` emits it."""
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
