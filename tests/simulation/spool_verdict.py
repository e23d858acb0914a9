"""The verdict on a simulated spool: every acknowledged event is in its place."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from noetl_events import decode
from noetl_events.json_values import MalformedEvent
from tests.simulation.disk import ids_in
from tests.simulation.violation import Violation
from tests.simulation.watched_stream import REJECTED

if TYPE_CHECKING:
    from noetl_events import ExecutorEvent
    from tests.simulation.spooling import SpoolRun


class SpoolVerdict:
    """
    The verdict on a run.

    Args:
        run: finished run.

    """

    def __init__(self, run: SpoolRun) -> None:
        self._run = run

    def missing(self) -> set[int]:
        """Return the acknowledged events neither forwarded nor excused: damage also loses the records behind it."""
        return self._not_through() - self._behind_damage()

    def require_end(self) -> None:
        """Fail unless every event is in its place."""
        self._require_nothing_invented()
        if lost := self.missing():
            raise Violation(f"lost: {sorted(lost)}")
        kept = {each for path in self._run.disk.folder.glob("*.damaged") for each in ids_in(path.read_bytes())}
        if gone := self._not_through() - kept - self._run.flipped:
            raise Violation(f"behind damage, and not kept aside: {sorted(gone)}")
        # Events that a stream has lost are forwarded again, behind those it still has.
        if not self._run.is_losing:
            self._require_order()

    def _not_through(self) -> set[int]:
        stream = self._run.stream
        return self._run.acknowledged - stream.stored.keys() - stream.too_old - self._rejected().keys()

    def _behind_damage(self) -> set[int]:
        return {each for runs in self._run.disk.spoilt.values() for run in runs for each in ids_in(run)}

    def _rejected(self) -> dict[int, ExecutorEvent]:
        """Return the events in `rejected.jsonl`; a line cut off by a power cut is none."""
        path = self._run.disk.folder / "rejected.jsonl"
        found: dict[int, ExecutorEvent] = {}
        for line in path.read_bytes().splitlines() if path.exists() else ():
            with suppress(ValueError):
                event = _event_of(json.loads(line)["event"])
                found[event.event_id or 0] = event
        return found

    def _require_nothing_invented(self) -> None:
        rejected = self._rejected()
        for event_id, event in [*rejected.items(), *self._run.stream.stored.items()]:
            if event != self._run.emitted.get(event_id):
                raise Violation(f"invented or changed: {event}")
        if wrong := [each for each in rejected if rejected[each].event_type != REJECTED]:
            raise Violation(f"rejected without need: {wrong}")

    def _require_order(self) -> None:
        # Events in flight from a dead process may arrive after those its successor reads behind the damage.
        behind_damage = self._behind_damage()
        judged = [event_id for event_id in self._run.stream.stored if event_id not in behind_damage]
        place = {event_id: index for index, event_id in enumerate(judged)}
        for lane, ids in self._run.lanes.items():
            places = [place[event_id] for event_id in ids if event_id in place]
            if places != sorted(places):
                raise Violation(f"lane {lane} out of order: {sorted(ids, key=lambda each: place.get(each, 0))}")


def _event_of(text: str) -> ExecutorEvent:
    try:
        return decode(text.encode())
    except MalformedEvent as exc:
        raise Violation(f"rejected, and never emitted: {exc}") from None
