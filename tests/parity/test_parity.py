"""Python and the crate read each other: by golden files, and by the crate itself if `make parity` has built it."""

from __future__ import annotations

import base64
import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from noetl_events import MalformedEvent, decode, encode
from tests.parity.cases import CASES, DIFFERENT
from tests.parity.seed import ASKED, COUNT, MADE, PROGRAM, READS, REREAD, WRITTEN, ask, digest, unpacked, written

# The crate writes Option<Value> of null at the end, and reads it back as None.
NULL_META = re.compile(rb',"meta":null}$')
TIME = re.compile(rb'"created_at":"([^"]+)"')


def lines(path: Any) -> list[bytes]:
    """Return the lines of a golden file."""
    return list(path.read_bytes().splitlines())


@pytest.mark.parametrize("body", lines(WRITTEN), ids=lambda body: json.loads(body)["step"])
def test_what_the_crate_writes_is_carried_byte_for_byte(body: bytes) -> None:
    """An event of the crate, read and written again, has the same bytes except for the form of its time."""
    again = encode(decode(body))
    moment, moment_again = TIME.search(body), TIME.search(again)
    assert moment
    assert moment_again
    # The crate writes Option<Value> of null, and reads it back as None.
    expected = body.replace(b',"meta":null', b"")

    assert TIME.sub(b"", again) == TIME.sub(b"", expected)
    assert digits(moment_again[1])[:19] == digits(moment[1])[:19] or b".999999" in moment[1] or b":60" in moment[1]


def digits(moment: bytes) -> bytes:
    """Return a time to the second."""
    return moment.replace(b"Z", b"").partition(b".")[0]


@pytest.mark.parametrize("name", CASES)
def test_edges_are_read_as_the_crate_does(name: str) -> None:
    """At every edge of the wire format the two readers agree, or the difference is listed with its reason."""
    golden = json.loads(READS.read_text())[name]
    body, expected = CASES[name]
    try:
        decode(body)
        read = True
    except MalformedEvent:
        read = False

    assert base64.b64decode(golden["body"]) == body, "run tests.parity.seed again"
    assert read is expected
    assert (read == golden["ok"]) is (name not in DIFFERENT)


def test_what_we_write_the_crate_reads() -> None:
    """The crate once read each of 10,000 random events as written, and Python still writes them identically."""
    bodies, answers = written(COUNT), unpacked(REREAD)

    assert digest(bodies) == ASKED.read_text().strip(), "run tests.parity.seed again"
    for body, answer in zip(bodies, answers, strict=True):
        require_same(body, json.loads(answer))
        assert encode(decode(body)) == body


def test_what_the_crate_makes_we_read() -> None:
    """Each of 10,000 events of the crate keeps its bytes, and its time to the microsecond."""
    bodies = unpacked(MADE)

    assert len(bodies) == COUNT
    for body in bodies:
        again, moment = encode(decode(body)), TIME.search(body)
        assert moment
        assert TIME.sub(b"", again) == TIME.sub(b"", NULL_META.sub(b"}", body))
        assert abs(microseconds(again) * 1_000 - nanoseconds(moment[1].decode())) <= 500


@pytest.mark.skipif(not PROGRAM.exists(), reason="the crate is not built: make parity, which needs cargo")
def test_the_crate_itself_reads_ten_thousand() -> None:
    """The crate itself reads 10,000 other events, and also the rewritten ones of its own, with the same content."""
    ours = written(COUNT, seed=2)
    theirs = [encode(decode(body)) for body in unpacked(MADE)]
    for bodies in (ours, theirs):
        for body, answer in zip(bodies, ask(bodies), strict=True):
            decode(msgspec.json.encode(answer["event"]))
            require_same(body, answer)


def nanoseconds(text: str) -> int:
    """Return Unix nanoseconds of a time in chrono's form; a leap second is the last microsecond before it."""
    if text[17:19] == "60":
        return nanoseconds(f"{text[:17]}59.999999Z")
    moment = datetime.fromisoformat(f"{text[:19]}+00:00")
    whole = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    fraction = int(text[20:-1].ljust(9, "0")) if len(text) > len("2026-05-31T00:00:00Z") else 0
    # The last half microsecond of 9999 would round beyond the range of a datetime.
    return min(whole * 10**9 + fraction, 253_402_300_799_999_999_499)


def microseconds(body: bytes) -> int:
    """Return Unix microseconds of the event in *body*."""
    return (decode(body).created_at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def require_same(body: bytes, answer: dict[str, Any]) -> None:
    """Fail unless the crate read *body* with the same content: integers and instants exact, floats to the last bit."""
    assert answer["ok"], f"{body!r}: {answer}"
    ours, theirs = msgspec.json.decode(body), answer["event"]
    moment = {"created_at": ours.pop("created_at")} | {"theirs": theirs.pop("created_at")}
    empty = {"execution_id": 1, "event_type": "", "step": "", "status": "", "context": 1}
    instants = {decode(msgspec.json.encode(empty | {"created_at": text})).created_at for text in moment.values()}

    assert len(instants) == 1, moment
    assert same(ours, theirs), f"{ours} is not {theirs}"


def same(ours: Any, theirs: Any) -> bool:
    """Compare two JSON values; serde_json without `float_roundtrip` may differ by one unit in the last place."""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, int | float):
        return abs(ours - theirs) <= 2 * math.ulp(ours)
    return bool(ours == theirs)
