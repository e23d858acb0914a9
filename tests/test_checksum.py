"""A checksum: equal for every encoding of an event, different for every other event."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, structs

from consumers.verification.ledger import checksum
from noetl_events import decode, encode
from noetl_events.testing import events, json_values, make_event

if TYPE_CHECKING:
    from noetl_events import ExecutorEvent


def of(context: str) -> int:
    """Return the checksum of an event with this context."""
    return checksum(make_event(context=Raw(context.encode()), meta=None))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param('{"a": 1, "b": 2}', '{"b":2,"a":1}', id="order of keys"),
        pytest.param('{"a": 3, "a": 1}', '{"a": 1}', id="key given twice"),
        pytest.param("1.0", "1", id="integer as a float"),
        pytest.param("1e5", "100000", id="exponent"),
        pytest.param("1E+2", "100.00", id="exponent with a sign"),
        pytest.param("-0", "0", id="minus zero"),
        pytest.param("-0.0", "0", id="minus zero as a float"),
        pytest.param("0.10", "0.1", id="trailing zero"),
        pytest.param("1e-7", "0.0000001", id="small"),
        pytest.param("1e300", "1" + "0" * 300, id="large"),
        pytest.param("12345678901234567890123456789.0", "12345678901234567890123456789", id="many digits"),
        pytest.param("0e99999999999999999999", "0", id="exponent without end"),
        pytest.param('"\\u0041\\/"', '"A/"', id="escapes"),
        pytest.param("[ 1 ,\n2 ]", "[1,2]", id="space"),
    ],
)
def test_same_meaning_same_checksum(one: str, other: str) -> None:
    """A value that jsonb or another writer has re-encoded has the same checksum."""
    assert of(one) == of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("1", "2", id="number"),
        pytest.param("0.1", '"0.1"', id="string for a number"),
        pytest.param("1", "true", id="true for one"),
        pytest.param("0", "false", id="false for zero"),
        pytest.param("null", "{}", id="null"),
        pytest.param("[1,2]", "[2,1]", id="order of items"),
        pytest.param("12345678901234567890123456789", "12345678901234567890123456788", id="last of many digits"),
        pytest.param("0.1234567890123456789012345", "0.1234567890123456789012346", id="last of many decimals"),
        pytest.param('{"a":{"b":1}}', '{"a":{"b":1,"c":null}}', id="key more"),
        pytest.param('"é"', '"e\u0301"', id="composition"),
    ],
)
def test_other_meaning_other_checksum(one: str, other: str) -> None:
    """Every change of a value changes the checksum."""
    assert of(one) != of(other)


@pytest.mark.parametrize(
    "change",
    [
        {"execution_id": 6},
        {"event_id": 2},
        {"event_type": "x"},
        {"step": "x"},
        {"status": "x"},
        {"created_at": make_event().created_at + timedelta(microseconds=1)},
        {"context": Raw(b"{}")},
        {"worker_id": None},
        {"worker_id": ""},
        {"meta": None},
        {"meta": Raw(b'{"attempts":1}')},
    ],
    # The value is not part of the test's name, because the repr of a Raw differs in every process.
    ids=lambda change: next(iter(change)),
)
def test_every_field_counts(change: dict[str, Any]) -> None:
    """Each of the nine fields changes the checksum."""
    event = make_event(context=Raw(b'{"a":1}'), meta=Raw(b'{"attempts":0}'))

    assert checksum(structs.replace(event, **change)) != checksum(event)


@given(event=events())
def test_same_after_another_writer(event: ExecutorEvent) -> None:
    """The standard library's JSON, with its own order and spaces, has the same checksum."""
    read = decode(encode(event))
    context = json.dumps(json.loads(bytes(read.context)), indent=1, sort_keys=True)

    assert checksum(structs.replace(read, context=Raw(context.encode()))) == checksum(read)


@given(one=json_values(), other=json_values())
def test_equal_only_if_equal(one: Any, other: Any) -> None:
    """Two values have the same checksum exactly if their JSON with sorted keys is equal."""
    texts = [json.dumps(value, sort_keys=True) for value in (one, other)]
    numbers_apart = texts[0] != texts[1] and one != other

    assert not numbers_apart or of(texts[0]) != of(texts[1])


@given(digits=st.integers(), exponent=st.integers(-320, 20))
def test_numbers_by_value(digits: int, exponent: int) -> None:
    """A number has the same checksum wherever its decimal point is written."""
    assert of(f"{digits}e{exponent}") == of(f"{digits * 100}.0e{exponent - 2}")
