"""The crate and we read each other: by golden files, and by the crate itself where `NOETL_SEED_PARITY` names it."""

from __future__ import annotations

import base64
import json
import math
import os
import re
from typing import Any

import msgspec
import pytest

from noetl_events import MalformedEvent, decode, encode
from tests.parity.cases import CASES, DIFFERENT
from tests.parity.seed import PYTHON_REREAD, PYTHON_WRITTEN, READS, WRITTEN, ask, made_bodies

PROGRAM = os.environ.get("NOETL_SEED_PARITY", "")
TIME = re.compile(rb'"created_at":"([^"]+)"')


def lines(path: Any) -> list[bytes]:
    """Return the lines of a golden file."""
    return list(path.read_bytes().splitlines())


@pytest.mark.parametrize("body", lines(WRITTEN), ids=lambda body: json.loads(body)["step"])
def test_what_the_crate_writes_is_carried_byte_for_byte(body: bytes) -> None:
    """An event of the crate, read and written again, is the same bytes, but for the form of its time."""
    again = encode(decode(body))
    moment, moment_again = TIME.search(body), TIME.search(again)
    assert moment
    assert moment_again
    # Option<Value> of null, which the crate reads back as None.
    expected = body.replace(b',"meta":null', b"")

    assert TIME.sub(b"", again) == TIME.sub(b"", expected)
    assert digits(moment_again[1])[:19] == digits(moment[1])[:19] or b".999999" in moment[1] or b":60" in moment[1]


def digits(moment: bytes) -> bytes:
    """Return a time to the second."""
    return moment.replace(b"Z", b"").partition(b".")[0]


@pytest.mark.parametrize("name", CASES)
def test_edges_are_read_as_the_crate_does(name: str) -> None:
    """At every edge of the wire the two readers agree, or the difference is listed with its reason."""
    golden = json.loads(READS.read_text())[name]
    body, expected = CASES[name]
    try:
        decode(body)
        read = True
    except MalformedEvent:
        read = False

    assert base64.b64decode(golden["body"]) == body, "run tests/parity/seed.py again"
    assert read is expected
    assert (read == golden["ok"]) is (name not in DIFFERENT)


def test_what_we_write_the_crate_reads() -> None:
    """The crate once read every one of these events, and we still write them so."""
    bodies = lines(PYTHON_WRITTEN)
    answers = [json.loads(line) for line in lines(PYTHON_REREAD)]

    assert len(bodies) == len(answers) == 300
    for body, answer in zip(bodies, answers, strict=True):
        require_same(body, answer)
        assert encode(decode(body)) == body


@pytest.mark.skipif(not PROGRAM, reason="NOETL_SEED_PARITY names no program; tests/parity/rust/README.md builds it")
def test_the_crate_itself_reads_ten_thousand() -> None:
    """10,000 events made by Hypothesis are read by the crate, and what it writes of them is read here."""
    bodies = made_bodies(10_000, start=2)
    for body, answer in zip(bodies, ask(PROGRAM, bodies), strict=True):
        decode(msgspec.json.encode(answer["event"]))
        require_same(body, answer)


def require_same(body: bytes, answer: dict[str, Any]) -> None:
    """Fail unless the crate read *body*, and read the same: integers exact, instants equal, floats to the last bit."""
    assert answer["ok"], f"{body!r}: {answer}"
    ours, theirs = msgspec.json.decode(body), answer["event"]
    moment = {"created_at": ours.pop("created_at")} | {"theirs": theirs.pop("created_at")}
    empty = {"execution_id": 1, "event_type": "", "step": "", "status": "", "context": 1}
    instants = {decode(msgspec.json.encode(empty | {"created_at": text})).created_at for text in moment.values()}

    assert len(instants) == 1, moment
    assert same(ours, theirs), f"{ours} is not {theirs}"


def same(ours: Any, theirs: Any) -> bool:
    """Compare two JSON values; serde_json without `float_roundtrip` may be one unit in the last place off."""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, int | float):
        return abs(ours - theirs) <= 2 * math.ulp(ours)
    return bool(ours == theirs)
