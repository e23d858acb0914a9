"""
Quarantine: write events to the sink, and find out if an event or the sink is at fault.

    the sink rejects some events         these become dead letters
    the sink rejects all events alike    the sink is at fault: `SinkUnavailable`, so the batch is kept and retried
    the sink raises any other error      the batch is written in halves, until the culprit stands alone
    the process dies                     its messages are written under crash records (see `crash_records`)

An event at which the sink raises becomes a dead letter only with two proofs: the sink accepts an event that it has
accepted before, and then raises at this event again.  Without the first proof the error of the sink ends the process,
and nothing is acknowledged.  The error also ends the process once the sink has raised at ten events more than it has
accepted.  So a sink that is broken creates no dead letters, and an error that passes loses no event.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Final, TypeAlias

import structlog

from consumers.projector.crash_records import FATAL
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.sink import EventsRejected, SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consumers.dead_letters import Kind
    from consumers.projector.crash_records import CrashRecords, Group
    from consumers.projector.progress import Progress
    from noetl_events.envelope import ExecutorEvent
    from noetl_events.sink import EventSink

# Fewer than 10 refused events may be bad events; 10 or more mean that the destination is broken.
_BROKEN: Final = 10

Rejections: TypeAlias = "dict[int, tuple[Kind, str]]"

log = structlog.get_logger()


class Quarantine:
    """
    The writer of one projector.

    Args:
        sink: destination of the events; the caller closes it.
        crash_records: crash records of the process.
        progress: receives the number and the duration of the writes.
        consumer: consumer of the projector, for the log.

    """

    def __init__(self, sink: EventSink, crash_records: CrashRecords, progress: Progress, *, consumer: str = "") -> None:
        self._sink = sink
        self._crash_records = crash_records
        self._progress = progress
        self._consumer = consumer
        self._accepted: ExecutorEvent | None = None
        self._excess = 0
        """Number of events at which the sink raised, less the number that it accepted; at least 0."""

    async def write(self, group: Group, events: Sequence[ExecutorEvent]) -> Rejections:
        """
        Write *events*, which are those of *group*, and return kind and reason of each rejected one by its index.

        Raises:
            SinkUnavailable: the sink is unavailable, or rejects all events alike; write the same events again.
            NatsUnavailable: the crash record cannot be stored; write the same events again.
            Exception: the sink raised this error, and no event is to blame.

        """
        if group.is_fatal:
            return dict.fromkeys(range(len(events)), ("fatal", FATAL))
        if not events:
            return {}
        async with self._crash_records.attempt(group):
            return await self._bisect(events)

    async def _bisect(self, events: Sequence[ExecutorEvent]) -> Rejections:
        """Write *events* in order, in halves where the sink raises, and return the rejections."""
        rejected: Rejections = {}
        unproven: list[tuple[int, Exception]] = []
        raised = 0
        everything = range(len(events))
        waiting = [everything]
        while waiting:
            places = waiting.pop()
            outcome = await self._try(events[places.start : places.stop])
            if not isinstance(outcome, Exception):
                rejected |= {places[index]: rejection for index, rejection in outcome.items()}
                continue
            if places == everything:
                log.warning("projector.retrying", consumer=self._consumer, events=len(events), exc_info=outcome)
            if len(places) > 1:
                middle = len(places) // 2
                waiting += [places[middle:], places[:middle]]
                continue
            raised += 1
            if self._excess + 2 * raised - len(events) >= _BROKEN:
                # The sink raises at too many events, even if it accepts all of the remaining ones.
                raise outcome
            if (accepted := self._accepted) is None:
                # Another event may prove that the sink works, so the events behind this one are written first.
                unproven.append((places.start, outcome))
            else:
                rejected |= await self._judge(places.start, events[places.start], accepted)
        for place, error in unproven:
            if (accepted := self._accepted) is None:
                raise error
            rejected |= await self._judge(place, events[place], accepted)
        self._excess = max(self._excess + 2 * raised - len(events), 0)
        return rejected

    async def _judge(self, place: int, event: ExecutorEvent, accepted: ExecutorEvent) -> Rejections:
        """Write *accepted* again, which proves that the sink works, and then *event* alone; return its rejection."""
        await self._emit([accepted])
        outcome = await self._try([event])
        if isinstance(outcome, Exception):
            return {place: ("fatal", f"the sink raised {type(outcome).__name__} at this event alone: {outcome}")}
        return {place + index: rejection for index, rejection in outcome.items()}

    async def _try(self, events: Sequence[ExecutorEvent]) -> Rejections | Exception:
        """Return the rejected ones of *events*, or the error outside of its contract that the sink raised."""
        try:
            return await self._emit(events)
        except (SinkUnavailable, NatsUnavailable):
            raise
        except Exception as exc:  # noqa: BLE001  (a sink of others may raise anything)
            self._progress.record_activity()
            return exc

    async def _emit(self, events: Sequence[ExecutorEvent]) -> Rejections:
        began = time.monotonic()
        rejected: Rejections = {}
        try:
            await self._sink.emit_batch(events)
        except EventsRejected as exc:
            _require_some_accepted(len(events), exc)
            rejected = {
                place: ("conflict" if place in exc.conflicts else "rejected", reason)
                for place, reason in exc.reasons.items()
            }
        self._progress.write(len(events), time.monotonic() - began)
        self._accepted = events[-1]
        return rejected


def _require_some_accepted(events: int, rejection: EventsRejected) -> None:
    """
    Raise if the sink rejects all *events* and most of them for one reason: then the destination is at fault.

    Each of several destinations is judged by its own answer only.  Conflicts do not count as a common reason, because
    each names another event that the destination has.
    """
    for part in rejection.parts:
        reasons = [reason for place, reason in part.reasons.items() if place not in part.conflicts]
        reason, times = max(Counter(reasons).items(), key=lambda counted: counted[1], default=("", 0))
        if len(part.reasons) == events and times >= _BROKEN:
            raise SinkUnavailable(
                f"the destination rejects all of {events} events, {times} of them for one reason, so none becomes "
                f"a dead letter: {reason}; repair the destination, or make dead letters with batches below {_BROKEN}"
            )
