"""
The comparison of two events with one key: the same event, a variant of it, or a conflict.

A key `(execution_id, event_id)` does not guarantee that no two events share it.  So a destination that keeps one row
for a key compares an event with the stored row:

    same       the same event, stored before or by another writer: nothing to do
    variant    the same event with another payload or status, as a scrubber or an edited dead letter leaves it: the row
               is kept, and the difference is logged and counted
    conflict   a different event: it is rejected, with its index in `EventsRejected.conflicts`

Equal digests mean the same event, whatever has happened to the row since.  Without equal digests, type, step and time
decide:

- Type or step differ: a conflict.
- The times are at most a microsecond apart: the same event, and a variant if anything else differs.  If both digests
  are known, no other writer explains a difference, so a variant has the same microsecond and the same worker.
- The stored time has whole milliseconds or seconds, or its column has no higher resolution: the times of colliding
  snowflakes are almost equal, so such a time proves nothing, and status, worker and payload must be equal too.
- The times are further apart: a conflict.  The exception is a row of another writer, without a digest: if status,
  worker and payload are equal, and the times are further apart than those of colliding ids, then the row has the time
  of its arrival in place of the event's own, and it is the same event.

Unknown fields of a row count as equal, and so does a worker that one of the two lacks.  JSON is compared by its
meaning, as jsonb does.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from noetl_events.canonical_json import means_the_same
from noetl_events.envelope import checked
from noetl_events.identity import Key
from noetl_events.json_values import shortened

if TYPE_CHECKING:
    from noetl_events.envelope import ExecutorEvent

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# Day, hour, minute, second and millisecond in microseconds: the units to which tools truncate times.
_UNITS: Final = (86_400_000_000, 3_600_000_000, 60_000_000, 1_000_000, 1_000)
# Colliding ids are of the same millisecond, and each event was stamped right after its id.
_COLLISION: Final = 2_000


class Likeness(Enum):
    """The relation of an event to the stored one with the same key."""

    SAME = "same"
    VARIANT = "variant"
    CONFLICT = "conflict"


class Occurrence(NamedTuple):
    """
    An event without its payload; None means unknown.

    Args:
        event_type: type of the event.
        step: step of the event.
        time: `created_at` in Unix microseconds.

    """

    event_type: str | None
    step: str | None
    time: int | None

    def __str__(self) -> str:
        return f"{_shown(self.event_type)} of step {_shown(self.step)} at {_moment(self.time)}"


class Comparison(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    An event and the stored one with the same key.

    Args:
        key: key of both.
        stored: stored event.
        event: new event.
        same_status: True if the statuses are equal, or the stored one is unknown.
        same_worker: True if the `worker_id` are equal or unknown, or one event has none.
        same_payload: True if `context` and `meta` mean the same, or are unknown.
        as_emitted: True if both digests are known.
        resolution: resolution of the column with the stored time, in microseconds.

    """

    key: Key
    stored: Occurrence
    event: Occurrence
    same_status: bool
    same_worker: bool
    same_payload: bool
    as_emitted: bool = False
    resolution: int = 1

    @property
    def likeness(self) -> Likeness:
        """Relation of the event to the stored one, by the rules of this module."""
        if _differ(self.stored.event_type, self.event.event_type) or _differ(self.stored.step, self.event.step):
            return Likeness.CONFLICT
        if self.same_status and self.same_worker and self.same_payload:
            return Likeness.SAME if self._may_be_of_one_moment else Likeness.CONFLICT
        return Likeness.VARIANT if self._is_of_one_moment else Likeness.CONFLICT

    @property
    def _may_be_of_one_moment(self) -> bool:
        """True if the times of two otherwise equal events allow them to be the same."""
        if self.stored.time is None or self.event.time is None:
            return True
        apart = abs(self.stored.time - self.event.time)
        return apart <= self._resolution or (apart > _COLLISION and not self.as_emitted)

    @property
    def _is_of_one_moment(self) -> bool:
        """True if the times of two otherwise different events prove that they are the same."""
        if self.stored.time is None or self.event.time is None or self._resolution > 1:
            return False
        if self.as_emitted:
            return self.stored.time == self.event.time and self.same_worker
        return abs(self.stored.time - self.event.time) <= 1

    @property
    def _resolution(self) -> int:
        return max(self.resolution, next((unit for unit in _UNITS if (self.stored.time or 0) % unit == 0), 1))

    @property
    def reason(self) -> str:
        """Reason for a dead letter, which names both events."""
        execution_id, event_id = self.key
        return (
            f"event {event_id} of execution {execution_id} is already stored as another event: {self.stored}; "
            f"this one is {self.event}; `noetl-events dead retry --new-id` stores it under another id"
        )


def compare(stored: ExecutorEvent, event: ExecutorEvent) -> Comparison:
    """
    Compare *event* with a stored one of the same key, for destinations that store whole events.

    Raises:
        MalformedEvent: one of the events is malformed.

    """
    stored, event = checked(stored), checked(event)
    return Comparison(
        key=(event.execution_id, event.event_id or 0),
        stored=occurrence_of(stored),
        event=occurrence_of(event),
        same_status=stored.status == event.status,
        same_worker=None in (stored.worker_id, event.worker_id) or stored.worker_id == event.worker_id,
        same_payload=means_the_same(stored.context, event.context) and means_the_same(stored.meta, event.meta),
        as_emitted=True,
    )


def occurrence_of(event: ExecutorEvent) -> Occurrence:
    """Return type, step and time of *event*."""
    return Occurrence(event.event_type, event.step, microseconds_of(event.created_at))


def microseconds_of(moment: datetime) -> int:
    """Return *moment*, which must have a time zone, in Unix microseconds."""
    return (moment - _EPOCH) // _MICROSECOND


def _differ(stored: str | None, event: str | None) -> bool:
    return stored is not None and stored != event


def _shown(text: str | None) -> str:
    return "(not known)" if text is None else repr(shortened(text))


def _moment(time: int | None) -> str:
    if time is None:
        return "an unknown time"
    try:
        return (_EPOCH + time * _MICROSECOND).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except OverflowError:
        return f"{time} microseconds after 1970"
