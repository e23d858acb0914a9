"""Two events with one key: the same event, a variant of it, or a conflict."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw, structs

from noetl_events.conflicts import Comparison, Likeness, Occurrence, compare, occurrence_of
from noetl_events.envelope import decode, encode
from noetl_events.testing import make_event

SAME, VARIANT, CONFLICT = Likeness.SAME, Likeness.VARIANT, Likeness.CONFLICT
MICROSECOND = timedelta(microseconds=1)
AT = make_event(1).created_at


def likeness(**changes: Any) -> Likeness:
    """Return the relation of an event with *changes* to event 1."""
    return compare(make_event(1), make_event(1, **changes)).likeness


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, SAME, id="nothing"),
        pytest.param({"event_type": "command.started"}, CONFLICT, id="type"),
        pytest.param({"step": "other"}, CONFLICT, id="step"),
        pytest.param({"status": "FAILED"}, VARIANT, id="status"),
        pytest.param({"worker_id": "worker-8"}, CONFLICT, id="worker"),
        pytest.param({"worker_id": None}, SAME, id="no worker"),
        pytest.param({"created_at": AT + MICROSECOND}, SAME, id="rounded time"),
        pytest.param({"created_at": AT + 2 * MICROSECOND}, CONFLICT, id="two microseconds"),
        pytest.param({"created_at": AT + timedelta(hours=1)}, CONFLICT, id="an hour"),
        pytest.param({"context": {"result": {"items": 1.0}}}, SAME, id="number written otherwise"),
        pytest.param({"context": {"masked": True}}, VARIANT, id="payload"),
        pytest.param({"meta": None}, VARIANT, id="meta"),
        pytest.param({"meta": {"attempts": 1}}, VARIANT, id="attempts"),
        pytest.param({"context": None, "created_at": AT + MICROSECOND}, CONFLICT, id="payload and time"),
    ],
)
def test_events_as_they_were_emitted(changes: dict[str, Any], expected: Likeness) -> None:
    """Of two complete events payload and status may differ, or the last microsecond of the time."""
    assert likeness(**changes) is expected


@pytest.mark.parametrize("unit", [1_000, 1_000_000, 60_000_000])
def test_a_clock_of_milliseconds_proves_nothing(unit: int) -> None:
    """Colliding ids share a millisecond, so equal times of that precision make no variant of another payload."""
    moment = datetime.fromtimestamp(1_780_000_000_000_000 // unit * unit / 1_000_000, UTC)
    stored, event = make_event(1, created_at=moment), make_event(1, created_at=moment, context="other")

    assert compare(stored, event).likeness is CONFLICT
    assert compare(stored, structs.replace(stored)).likeness is SAME


def row(**changes: Any) -> Comparison:
    """Return event 1 with the row of another writer that equals it except for *changes*."""
    frame = occurrence_of(make_event(1))
    fields: dict[str, Any] = {"same_status": True, "same_worker": True, "same_payload": True}
    return Comparison(**{"key": (7, 1), "stored": frame, "event": frame} | fields | changes)


def at(microseconds: int) -> Occurrence:
    """Return the frame of event 1, *microseconds* later."""
    frame = occurrence_of(make_event(1))
    assert frame.time is not None
    return frame._replace(time=frame.time + microseconds)


def cut_to(unit: int) -> Occurrence:
    """Return the frame of event 1 with its time truncated to multiples of *unit* microseconds."""
    frame = occurrence_of(make_event(1))
    assert frame.time is not None
    return frame._replace(time=frame.time // unit * unit)


MINUTE, DAY = 60_000_000, 86_400_000_000


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, SAME, id="nothing"),
        pytest.param({"same_payload": False}, VARIANT, id="masked"),
        pytest.param({"same_status": False}, VARIANT, id="status renamed"),
        pytest.param({"same_worker": False}, VARIANT, id="worker left out"),
        pytest.param({"stored": at(1), "same_payload": False}, VARIANT, id="masked and rounded"),
        pytest.param({"stored": at(2), "same_payload": False}, CONFLICT, id="other payload a little later"),
        pytest.param({"stored": at(400)}, CONFLICT, id="another event of the millisecond"),
        pytest.param({"stored": at(-400)}, CONFLICT, id="another event before it"),
        pytest.param({"stored": at(40_000)}, SAME, id="time of arrival"),
        pytest.param({"stored": at(7_200_000_000)}, SAME, id="another zone"),
        pytest.param({"stored": at(40_000), "same_payload": False}, CONFLICT, id="arrival and other payload"),
        pytest.param({"stored": at(40_000), "same_worker": False}, CONFLICT, id="arrival and other worker"),
        pytest.param({"stored": cut_to(1_000)}, SAME, id="cut to milliseconds"),
        pytest.param({"stored": cut_to(1_000_000)}, SAME, id="cut to seconds"),
        pytest.param({"stored": cut_to(MINUTE)}, SAME, id="cut to minutes"),
        pytest.param({"stored": cut_to(DAY)}, SAME, id="cut to a day"),
        pytest.param({"stored": cut_to(1_000), "same_payload": False}, CONFLICT, id="cut, other payload"),
        pytest.param({"stored": cut_to(1_000_000), "same_status": False}, CONFLICT, id="cut, other status"),
        pytest.param({"stored": at(80), "resolution": 100}, SAME, id="column of four digits"),
        pytest.param(
            {"stored": at(80), "resolution": 100, "same_payload": False}, CONFLICT, id="column, other payload"
        ),
        pytest.param({"stored": Occurrence("command.completed", None, None)}, SAME, id="step and time not known"),
        pytest.param(
            {"stored": Occurrence(None, None, None), "same_payload": False}, CONFLICT, id="nothing known, other payload"
        ),
        pytest.param({"stored": Occurrence("command.completed", "other", None)}, CONFLICT, id="other step"),
    ],
)
def test_rows_of_other_writers(changes: dict[str, Any], expected: Likeness) -> None:
    """A rewritten row is never a conflict with its own event, and another event is never taken for it."""
    assert row(**changes).likeness is expected


@pytest.mark.parametrize(
    "changes",
    [{"stored": at(40_000)}, {"same_worker": False}, {"stored": at(1), "same_payload": False}],
)
def test_known_digests_leave_less_room(changes: dict[str, Any]) -> None:
    """With two known and different digests, a rewriting writer does not explain another time or worker."""
    assert row(**changes).likeness is not CONFLICT
    assert row(**changes, as_emitted=True).likeness is CONFLICT


def test_reason_names_both() -> None:
    """A dead letter names type, step and time of the stored event, and the remedy."""
    found = compare(make_event(1), make_event(1, event_type="step.enter", step="load\n"))

    assert found.reason == (
        "event 1 of execution 478775660589088776 is already stored as another event: 'command.completed' of step "
        "'fetch_calendar' at 2026-05-31T03:14:15.124456Z; this one is 'step.enter' of step 'load\\n' at "
        "2026-05-31T03:14:15.124456Z; `noetl-events dead retry --new-id` stores it under another id"
    )


@pytest.mark.parametrize("time", [None, 10**18, -(10**18)])
def test_reason_of_any_time(time: int | None) -> None:
    """A row may have a time that Python cannot represent."""
    assert "another event" in row(stored=Occurrence(None, "x" * 10_000, time)).reason
    assert len(row(stored=Occurrence(None, "x" * 10_000, time)).reason) < 500


def test_payload_is_compared_by_its_meaning() -> None:
    """An event from the wire and its copy from a jsonb column have no difference left."""
    event = make_event(1, context=Raw(b'{"b": [1.0, -0, 1e2], "a": "\\u00e9"}'))
    stored = make_event(1, context=Raw('{"a":"é","b":[1,0,100]}'.encode()))

    assert compare(stored, decode(encode(event))).likeness is SAME
