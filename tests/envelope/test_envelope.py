"""The envelope: the tests of the Rust crate, and every line of the wire format."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from noetl_events import MalformedEvent, decode, encode
from noetl_events.testing import make_event
from tests.envelope.bodies import NATIVE, body, raw_body, value


class TestCrate:
    """The tests of the Rust crate."""

    def test_optional_fields_are_left_out_when_none(self) -> None:
        """An older consumer sees no keys that it does not know."""
        written = json.loads(encode(make_event(event_id=None, worker_id=None, meta=None)))

        assert [*NATIVE] == [*written]

    def test_optional_fields_are_written_when_present(self) -> None:
        """Ids are written as integers, and the other fields beside them."""
        written = json.loads(encode(make_event(478775660589088777, worker_id="worker-1", meta={"attempts": 2})))

        assert written["event_id"] == 478775660589088777
        assert written["worker_id"] == "worker-1"
        assert written["meta"]["attempts"] == 2

    def test_payload_is_read_as_context(self) -> None:
        """Older writers name the context payload."""
        event = decode(body(context=..., payload={"foo": "bar"}))

        assert value(event.context) == {"foo": "bar"}

    def test_missing_optional_fields_are_none(self) -> None:
        """A body without event_id, worker_id and meta has None for each."""
        event = decode(body())

        assert (event.event_id, event.worker_id, event.meta) == (None, None, None)

    def test_round_trips_with_all_optional_fields(self) -> None:
        """An event that was written is read back equal."""
        original = make_event(478775660589088777, meta={"attempts": 3, "parent_event_id": "478775660589088770"})
        parsed = decode(encode(original))

        assert parsed.execution_id == original.execution_id
        assert parsed.event_id == original.event_id
        assert parsed.worker_id == original.worker_id
        assert parsed.created_at == original.created_at
        assert value(parsed.meta) == original.meta
        assert value(parsed.context) == original.context


class TestRead:
    """The bodies that the wire format accepts."""

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            pytest.param("2026-05-31T03:14:15Z", "03:14:15", id="no fraction"),
            pytest.param("2026-05-31T03:14:15.1Z", "03:14:15.100000", id="one digit"),
            pytest.param("2026-05-31T03:14:15.123Z", "03:14:15.123000", id="milliseconds"),
            pytest.param("2026-05-31T03:14:15.123456Z", "03:14:15.123456", id="microseconds"),
            pytest.param("2026-05-31T03:14:15.123456789Z", "03:14:15.123457", id="nanoseconds are rounded"),
            pytest.param("2026-05-31T03:14:15.9999999Z", "03:14:16", id="rounded into the next second"),
            pytest.param("2026-05-31T03:14:15", "03:14:15", id="no zone is UTC"),
            pytest.param("2026-05-31 03:14:15.5", "03:14:15.500000", id="space"),
            pytest.param("2026-05-31T08:44:15+05:30", "03:14:15", id="offset"),
            pytest.param("2026-05-31T03:14:60Z", "03:14:59.999999", id="leap second"),
            pytest.param("2026-05-31T03:14:60.5Z", "03:14:59.999999", id="within a leap second"),
        ],
    )
    def test_times(self, text: str, expected: str) -> None:
        """Every time format of the NoETL writers is read, in UTC."""
        created_at = decode(body(created_at=text)).created_at

        assert created_at.tzinfo is UTC
        assert created_at.isoformat() == f"2026-05-31T{expected}+00:00"

    def test_last_nanosecond_of_the_year_9999(self) -> None:
        """Rounding never exceeds the range of a datetime."""
        event = decode(body(created_at="9999-12-31T23:59:59.999999999Z"))

        assert event.created_at == datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)

    @pytest.mark.parametrize("field", ["execution_id", "event_id"])
    @pytest.mark.parametrize("number", [0, -1, 543942402780693277, 2**63 - 1, -(2**63)])
    def test_ids_as_decimal_strings(self, field: str, number: int) -> None:
        """An id is read from a number and from a string of digits."""
        assert getattr(decode(body(**{field: str(number)})), field) == number
        assert getattr(decode(body(**{field: number})), field) == number

    def test_aliases_of_type_and_step(self) -> None:
        """Other writers use the names name and node_name."""
        event = decode(body(event_type=..., name="call.done", step=..., node_name="fetch"))

        assert (event.event_type, event.step) == ("call.done", "fetch")

    def test_unknown_fields_are_ignored(self) -> None:
        """A reader ignores the unknown fields of a later version."""
        assert decode(body(tomorrow={"a": [1]})).meta is None

    def test_null_is_none_for_optional_fields(self) -> None:
        """A writer may send null instead of omitting a field."""
        event = decode(body(event_id=None, worker_id=None, meta=None))

        assert (event.event_id, event.worker_id, event.meta) == (None, None, None)

    def test_null_context_is_a_value(self) -> None:
        """A null context is present, with the value null."""
        assert value(decode(body(context=None)).context) is None

    def test_last_of_two_wins(self) -> None:
        """The last value of a repeated field counts."""
        assert decode(raw_body('"execution_id": 6, "execution_id": 7')).execution_id == 7

    def test_payload_stays_as_sent(self) -> None:
        """The bytes of context and meta are preserved, white space included."""
        event = decode(raw_body('"context": {"b" : 1.0,  "a":\\n[1e5]}, "meta": {"x": 1}'.replace("\\n", "\n")))

        assert bytes(event.context) == b'{"b" : 1.0,  "a":\n[1e5]}'
        assert b'{"b" : 1.0,  "a":\n[1e5]}' in encode(event)


class TestRow:
    """Bodies in the shape of a row of noetl.event."""

    def row(self, **changes: Any) -> bytes:
        """Return a row-shaped body."""
        return body(step=..., context=..., node_name="fetch", **changes)

    def test_context_may_be_missing(self) -> None:
        """A row without context has null for it."""
        assert value(decode(self.row()).context) is None

    def test_columns_are_kept_in_meta(self) -> None:
        """Columns without a field in the envelope are kept in meta under their own names, beside its entries."""
        event = decode(self.row(meta={"attempts": 1}, node_type="http", parent_event_id=7, error=None))

        assert value(event.meta) == {"attempts": 1, "node_type": "http", "parent_event_id": 7, "error": None}

    def test_meta_that_is_no_object_is_kept(self) -> None:
        """A meta that is no object is kept under its own name."""
        assert value(decode(self.row(meta=[1], node_type="http")).meta) == {"meta": [1], "node_type": "http"}

    def test_native_bodies_gain_no_meta(self) -> None:
        """Unknown fields of a body that is no row are dropped."""
        assert decode(body(node_type="http")).meta is None


class TestMalformed:
    """The bodies that the wire format refuses, each with a reason that names the field."""

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            pytest.param(body(payload=1), "context: given twice", id="context and payload"),
            pytest.param(body(execution_id=...), "execution_id: missing", id="no execution_id"),
            pytest.param(body(event_type=...), "event_type: missing", id="no event_type"),
            pytest.param(body(step=...), "step: missing", id="no step"),
            pytest.param(body(status=...), "status: missing", id="no status"),
            pytest.param(body(created_at=...), "created_at: missing", id="no created_at"),
            pytest.param(body(context=...), "context: missing", id="no context"),
            pytest.param(body(status=None), "status: None is not a string", id="null where required"),
            pytest.param(body(execution_id=2**63), "execution_id: 9223372036854775808 is outside", id="id too large"),
            pytest.param(body(event_id=-(2**63) - 1), "event_id: .* is outside", id="id too small"),
            pytest.param(body(event_id=str(2**63)), "event_id: .* is outside", id="id too large, as string"),
            pytest.param(body(event_id="12a"), "event_id: '12a' is not an integer", id="id no number"),
            pytest.param(body(event_id=1.0), "event_id: 1.0 is not an integer", id="id a float"),
            pytest.param(body(event_id=True), "event_id: True is not an integer", id="id a bool"),
            pytest.param(body(created_at="yesterday"), "created_at: 'yesterday' is not an RFC 3339", id="no time"),
            pytest.param(body(created_at="2026-05-31"), "created_at: .* is not an RFC 3339", id="only a date"),
            pytest.param(body(created_at=1), "created_at: 1 is not a string", id="time a number"),
            pytest.param(
                body(created_at="9999-12-31T23:59:59-01:00"), "created_at: .* years 1 to 9999", id="year 10000"
            ),
            pytest.param(raw_body('"context": 1e400'), "context: Number out of range", id="number too large"),
            pytest.param(raw_body('"meta": [1e400]'), "meta: Number out of range", id="number too large in meta"),
            pytest.param(raw_body('"x": 1e400'), "x: Number out of range", id="number too large in unknown field"),
            pytest.param(body(context={"a": "\ud800"}), "context: .*surrogate", id="lone surrogate"),
            pytest.param(body(x="\ud800"), "x: .*surrogate", id="lone surrogate in unknown field"),
            pytest.param(body(step="\udc00"), "step: .*surrogate", id="lone low surrogate"),
            pytest.param(body(context="@").replace(b"@", b"\xff"), "context: invalid UTF-8", id="UTF-8 in context"),
            pytest.param(body(x="@").replace(b"@", b"\xff"), "x: invalid UTF-8", id="UTF-8 in unknown field"),
            pytest.param(body(step="@").replace(b"@", b"\xff"), "step: invalid UTF-8", id="UTF-8 in step"),
            pytest.param(body(x=1).replace(b'"x"', b'"\xff"'), "body: invalid UTF-8", id="UTF-8 in a name"),
            pytest.param(b"[1]", "body: not a JSON object", id="array"),
            pytest.param(b'["\\ud800"]', "body: ", id="surrogate in an array"),
            pytest.param(b'"event"', "body: not a JSON object", id="string"),
            pytest.param(b"", "body: ", id="empty"),
            pytest.param(b"\xef\xbb\xbf" + body(), "body: ", id="byte order mark"),
            pytest.param(body() + b"{}", "body: ", id="trailing garbage"),
            pytest.param(body()[:-1], "body: ", id="truncated"),
        ],
    )
    def test_is_refused(self, data: bytes, reason: str) -> None:
        """The reason names the field and its fault."""
        with pytest.raises(MalformedEvent, match=reason):
            decode(data)

    @pytest.mark.parametrize("field", ["context", "meta", "x"])
    def test_nesting_has_the_limit_of_serde(self, field: str) -> None:
        """Levels up to 127 are read, the envelope included; one more is refused, and so are thousands."""
        decode(raw_body(f'"{field}": {"[" * 126}{"]" * 126}'))
        for levels in (127, 5_000):
            with pytest.raises(MalformedEvent, match="nested deeper than 127"):
                decode(raw_body(f'"{field}": {"[" * levels}{"]" * levels}'))


class TestWrite:
    """The events that are refused before they are sent."""

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            pytest.param({"context": math.nan}, "context: nan is not a JSON number", id="NaN"),
            pytest.param({"context": {"a": [1, math.inf]}}, r"context.a\[1\]: inf", id="infinity, with its path"),
            pytest.param({"meta": {"a": -math.inf}}, "meta.a: -inf", id="in meta"),
            pytest.param({"context": {"a": "\ud800"}}, "context: a lone surrogate", id="surrogate"),
            pytest.param({"step": "\ud800"}, "step: a lone surrogate", id="surrogate in step"),
            pytest.param({"context": {1, 2}}, "context: set is not a JSON type", id="set"),
            pytest.param({"context": b"bytes"}, "context: bytes is not a JSON type", id="bytes"),
            pytest.param({"context": datetime.now(UTC)}, "context: datetime is not a JSON type", id="datetime"),
            pytest.param({"context": {1: 2}}, "context: the key 1 is not a string", id="key no string"),
            pytest.param({"context": 10**400}, "context: an integer beyond", id="integer too large"),
            pytest.param({"execution_id": "5"}, "execution_id: '5'", id="id a string"),
            pytest.param({"execution_id": True}, "execution_id: True", id="id a bool"),
            pytest.param({"event_id": 2**63}, "event_id: 9223372036854775808", id="id too large"),
            pytest.param({"status": None}, "status: None", id="status None"),
            pytest.param({"worker_id": 5}, "worker_id: 5", id="worker a number"),
            pytest.param({"created_at": "now"}, "created_at: 'now'", id="time a string"),
        ],
    )
    def test_is_refused(self, changes: dict[str, Any], reason: str) -> None:
        """The reason names the field and the path to the value."""
        with pytest.raises(MalformedEvent, match=reason):
            encode(make_event(**changes))

    def test_circle_is_refused(self) -> None:
        """A payload that contains itself raises instead of looping."""
        circle: list[Any] = []
        circle.append(circle)
        with pytest.raises(MalformedEvent, match="in a circle"):
            encode(make_event(context=circle))

    def test_nesting_is_what_can_be_read(self) -> None:
        """The deepest payload that can be written is the deepest that can be read."""
        deepest: list[Any] = []
        for _ in range(125):
            deepest = [deepest]

        assert decode(encode(make_event(context=deepest))).event_id == 1
        with pytest.raises(MalformedEvent, match="nested deeper"):
            encode(make_event(context=[deepest]))

    @pytest.mark.parametrize(
        "moment",
        [
            pytest.param(datetime(2026, 5, 31, 3, 14, 15, 5), id="no zone"),  # noqa: DTZ001  (the test needs it)
            pytest.param(datetime(2026, 5, 31, 8, 44, 15, 5, timezone(timedelta(hours=5, minutes=30))), id="offset"),
        ],
    )
    def test_times_are_written_in_utc(self, moment: datetime) -> None:
        """A time of any zone is written in UTC with Z."""
        assert json.loads(encode(make_event(created_at=moment)))["created_at"] == "2026-05-31T03:14:15.000005Z"
