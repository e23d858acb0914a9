"""Identity: the digest of an event, and its message id in the stream."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from msgspec import Raw, structs

from noetl_events.envelope import ExecutorEvent, decode, encode
from noetl_events.identity import digest, digest_of_body, message_id
from noetl_events.testing import make_event

EVENT = ExecutorEvent(
    execution_id=543942402780693277,
    event_type="step.exit",
    step="fetch",
    status="COMPLETED",
    created_at=datetime(2026, 5, 31, 3, 14, 15, 123456, UTC),
    context={"rows": [1, 2.5, None], "name": "π"},
    event_id=478775660589088776,
    worker_id="worker-7",
    meta={"attempts": 1},
)

DIGEST = 6_053_165_317_941_025_132


def test_digest_of_version_one() -> None:
    """The digest of a known event is a fixed number: tables and streams hold it for years."""
    assert encode(EVENT) == (
        b'{"execution_id":543942402780693277,"event_type":"step.exit","step":"fetch","status":"COMPLETED",'
        b'"created_at":"2026-05-31T03:14:15.123456Z","context":{"rows":[1,2.5,null],"name":"\xcf\x80"},'
        b'"event_id":478775660589088776,"worker_id":"worker-7","meta":{"attempts":1}}'
    )
    assert digest(EVENT) == DIGEST
    assert message_id(EVENT.event_id or 0, encode(EVENT)) == b"478775660589088776-%016x" % (DIGEST % 2**64)


def test_digest_survives_the_wire() -> None:
    """An event read from the wire has the same digest, however often it is encoded again."""
    again = decode(encode(decode(encode(EVENT))))

    assert digest(again) == digest(EVENT) == digest_of_body(encode(EVENT))


def test_digest_knows_no_zone() -> None:
    """A time has the same digest in every zone."""
    elsewhere = EVENT.created_at.astimezone(timezone(timedelta(hours=14)))

    assert digest(structs.replace(EVENT, created_at=elsewhere)) == digest(EVENT)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"execution_id": 1}, id="execution_id"),
        pytest.param({"event_type": "step.enter"}, id="event_type"),
        pytest.param({"step": "store"}, id="step"),
        pytest.param({"status": "FAILED"}, id="status"),
        pytest.param({"created_at": EVENT.created_at + timedelta(microseconds=1)}, id="a microsecond"),
        pytest.param({"context": {"rows": [1, 2.5, None], "name": "p"}}, id="context"),
        pytest.param({"context": Raw(b'{"rows": [1,2.5,null],"name":"\xcf\x80"}')}, id="a blank in context"),
        pytest.param({"event_id": 2}, id="event_id"),
        pytest.param({"worker_id": None}, id="worker_id"),
        pytest.param({"meta": None}, id="meta"),
    ],
)
def test_digest_covers_every_field(change: dict[str, object]) -> None:
    """Every changed field of an event changes the digest."""
    assert digest(structs.replace(EVENT, **change)) != digest(EVENT)


def test_message_ids_of_one_event_id_differ() -> None:
    """Two different events with the same event id have different message ids."""
    first, second = make_event(7, step="a"), make_event(7, step="b")

    assert message_id(7, encode(first)) != message_id(7, encode(second))
    assert message_id(7, encode(first)).startswith(b"7-")
