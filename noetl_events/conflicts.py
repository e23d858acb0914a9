"""
Two events with one key: the same event, a variant of it, or a conflict.

A key `(execution_id, event_id)` cannot promise that no two events share it.  A destination that keeps one row for a key
therefore compares an event with the row that is there:

    same       the same event, stored before or by another writer: nothing to do
    variant    the same event with another payload or status, as a scrubber or an edited dead letter leaves it: the row
               stays as it is, the difference is logged and counted
    conflict   a different event: it is rejected, with its place in `EventsRejected.conflicts`

Equal digests are the same event, whatever has become of the row since.  Without equal digests, type, step and time
decide:

- Type or step differ: a conflict.
- The times are at most a microsecond apart: the same event, and a variant if anything else differs.  When both digests
  are known, no writer in between explains a difference: then a variant has the same microsecond and the same worker.
- The stored time has whole milliseconds or seconds, or its column holds no more: snowflakes that collide have almost
  the same time, so such a time proves nothing.  Status, worker and payload must be equal too.
- The times are further apart: a conflict.  One exception is a row of another writer, without a digest: if status,
  worker and payload are equal, and the times are further apart than those of ids that collide, the row has a time of
  arrival in place of the event's own, and it is the same event.

What is not known of a row counts as equal, and so does a worker that one of them does not name.  JSON is compared by
its meaning, as jsonb does.
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
# Day, hour, minute, second and millisecond, in microseconds: what tools cut times down to.
_UNITS: Final = (86_400_000_000, 3_600_000_000, 60_000_000, 1_000_000, 1_000)
# Two ids that collide were made in the same millisecond, and each event was stamped beside its id.
_COLLISION: Final = 2_000


class Likeness(Enum):
    """The relation of an event to the stored one that has its key."""

    SAME = "same"
    VARIANT = "variant"
    CONFLICT = "conflict"


class Frame(NamedTuple):
    """
    An event without its payload; None is not known.

    Args:
        event_type: of the event.
        step: of the event.
        time: its `created_at`, in Unix microseconds.

    """

    event_type: str | None
    step: str | None
    time: int | None

    def __str__(self) -> str:
        return f"{_shown(self.event_type)} of step {_shown(self.step)} at {_moment(self.time)}"


class Comparison(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    An event and the stored one that has its key.

    Args:
        key: of both.
        stored: the one that is there.
        event: the newcomer.
        same_status: whether their status is equal, or that of the stored one is not known; likewise the next two.
        same_worker: whether their `worker_id` is equal, or one has none.
        same_payload: whether their `context` and `meta` mean the same.
        as_emitted: whether the digests of both are known.
        resolution: of the column that holds the stored time, in microseconds.

    """

    key: Key
    stored: Frame
    event: Frame
    same_status: bool
    same_worker: bool
    same_payload: bool
    as_emitted: bool = False
    resolution: int = 1

    @property
    def likeness(self) -> Likeness:
        """The relation of the event to the stored one, by the rules above."""
        if _differ(self.stored.event_type, self.event.event_type) or _differ(self.stored.step, self.event.step):
            return Likeness.CONFLICT
        if self.same_status and self.same_worker and self.same_payload:
            return Likeness.SAME if self._may_be_of_one_moment else Likeness.CONFLICT
        return Likeness.VARIANT if self._is_of_one_moment else Likeness.CONFLICT

    @property
    def _may_be_of_one_moment(self) -> bool:
        """Whether the times of two events that are equal otherwise leave room for them to be the same."""
        if self.stored.time is None or self.event.time is None:
            return True
        apart = abs(self.stored.time - self.event.time)
        return apart <= self._resolution or (apart > _COLLISION and not self.as_emitted)

    @property
    def _is_of_one_moment(self) -> bool:
        """Whether their times prove that two events that differ otherwise are the same."""
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
        """A sentence for a dead letter, that names both events."""
        execution_id, event_id = self.key
        return (
            f"event {event_id} of execution {execution_id} is there already and is another event: {self.stored}; "
            f"this one is {self.event}; `noetl-events dead retry --new-id` stores it under another id"
        )


def compare(stored: ExecutorEvent, event: ExecutorEvent) -> Comparison:
    """
    Compare *event* with the one of the same key that a destination has, where it keeps events whole.

    Raises:
        MalformedEvent: one of them is none.

    """
    stored, event = checked(stored), checked(event)
    return Comparison(
        key=(event.execution_id, event.event_id or 0),
        stored=frame_of(stored),
        event=frame_of(event),
        same_status=stored.status == event.status,
        same_worker=None in (stored.worker_id, event.worker_id) or stored.worker_id == event.worker_id,
        same_payload=means_the_same(stored.context, event.context) and means_the_same(stored.meta, event.meta),
        as_emitted=True,
    )


def frame_of(event: ExecutorEvent) -> Frame:
    """Return type, step and time of *event*."""
    return Frame(event.event_type, event.step, microseconds_of(event.created_at))


def microseconds_of(moment: datetime) -> int:
    """Return *moment*, which has a zone, in Unix microseconds."""
    return (moment - _EPOCH) // _MICROSECOND


def _differ(stored: str | None, event: str | None) -> bool:
    return stored is not None and stored != event


def _shown(text: str | None) -> str:
    return "(not known)" if text is None else repr(shortened(text))


def _moment(time: int | None) -> str:
    if time is None:
        return "a time that is not known"
    try:
        return (_EPOCH + time * _MICROSECOND).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except OverflowError:
        return f"{time} microseconds after 1970"
