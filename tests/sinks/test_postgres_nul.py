"""NUL, which Postgres cannot hold: replaced on request instead of rejected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec import Raw

from consumers.sinks.postgres import PostgresSink, create_schema
from consumers.sinks.postgres.rows import without_nul
from noetl_events import EventsRejected
from noetl_events.testing import make_event
from tests.sinks.postgres_database import fetch

if TYPE_CHECKING:
    from noetl_events import ExecutorEvent

NAMES = ("context", "meta", "step", "status", "event_type", "worker_id")
TEXTS = {"step": "s\0", "status": "\0", "event_type": "t\0", "worker_id": "w\0"}


async def rows_stored(url: str, *events: ExecutorEvent) -> list[Any]:
    """Return the rows of *events*, with NUL replaced."""
    await create_schema(url)
    sink = PostgresSink.from_url(f"{url}?on_nul=replace")
    await sink.emit_batch(events)
    await sink.aclose()
    return await fetch(url, "SELECT *, context #>> '{}' AS content FROM noetl.event ORDER BY event_id")


@pytest.mark.parametrize(
    ("sent", "content"),
    [
        pytest.param(rb'"a\u0000b"', "a\ufffdb", id="NUL"),
        pytest.param(rb'"a\\u0000b"', r"a\u0000b", id="backslash and u0000"),
        pytest.param(rb'"a\\\u0000b"', "a\\\ufffdb", id="backslash and NUL"),
        pytest.param(rb'"\u0000\u0000"', "\ufffd\ufffd", id="two"),
        pytest.param(rb'"\"\u0000"', '"\ufffd', id="behind a quote"),
    ],
)
async def test_in_json(database_url: str, sent: bytes, content: str) -> None:
    """An escaped NUL is replaced, and text that only resembles one is kept."""
    (row,) = await rows_stored(database_url, make_event(1, context=Raw(sent)))

    assert row["content"] == content


async def test_everywhere(database_url: str) -> None:
    """NUL is replaced in keys, in meta and in every text, of events from the wire and of those built in Python."""
    raw = Raw(rb'{"k\u0000":1}')
    rows = await rows_stored(
        database_url,
        make_event(1, context=raw, meta=raw, **TEXTS),
        make_event(2, context={"k\0": 1}, meta={"k\0": 1}, **TEXTS),
    )

    assert {tuple(row[name] for name in NAMES) for row in rows} == {
        ('{"k\ufffd": 1}', '{"k\ufffd": 1}', "s\ufffd", "\ufffd", "t\ufffd", "w\ufffd")
    }


def test_event_without_nul_is_not_touched() -> None:
    """An event without NUL, as nearly all are, stays the same object."""
    event = make_event(1, context=Raw(rb'"\u0001"'), meta=None)

    assert without_nul(event) is event


async def test_is_rejected_by_default(database_url: str) -> None:
    """By default the event is rejected with its SQLSTATE."""
    await create_schema(database_url)
    sink = PostgresSink.from_url(database_url)
    with pytest.raises(EventsRejected) as rejection:
        await sink.emit_batch([make_event(1, step="\0"), make_event(2, context={"k": "\0"}), make_event(3)])

    assert {number: reason[:14] for number, reason in rejection.value.reasons.items()} == {
        0: "SQLSTATE 22021",
        1: "SQLSTATE 22P05",
    }
    await sink.aclose()


def test_other_choice_is_refused() -> None:
    """An option other than the two valid ones is refused."""
    with pytest.raises(ValueError, match="on_nul: 'drop' is none of reject, replace"):
        PostgresSink.from_url("postgresql://localhost/x?on_nul=drop")
