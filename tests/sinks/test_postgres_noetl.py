"""NoETL's own table: partitions, checks, and a parent for each row."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from msgspec import Raw

from consumers.sinks.postgres import PostgresSink, TableMismatch, create_schema
from noetl_events import EventsRejected, SinkUnavailable
from noetl_events.envelope import decode
from noetl_events.testing import eventually, make_event
from tests.sinks.postgres_database import execute, fetch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from noetl_events import ExecutorEvent

TABLE = Path(__file__).with_name("noetl_event.sql").read_text()
META = {"catalog_id": 7, "attempts": 0}


@pytest.fixture
async def url(database_url: str) -> str:
    """Return a database with NoETL's table and catalog entry 7."""
    await execute(database_url, TABLE + "INSERT INTO noetl.catalog VALUES (7, 'some/playbook')")
    return f"{database_url}?mapping=noetl"


@pytest.fixture
async def sink(url: str) -> AsyncIterator[PostgresSink]:
    """Return a sink on the table."""
    opened = PostgresSink.from_url(url)
    yield opened
    await opened.aclose()


async def rows_in(url: str) -> list[dict[str, Any]]:
    """Return the rows with decoded JSON."""
    rows = await fetch(url.partition("?")[0], "SELECT * FROM noetl.event ORDER BY event_id")
    return [
        {
            name: json.loads(value) if value is not None and name in ("context", "result", "meta") else value
            for name, value in row.items()
        }
        for row in rows
    ]


def with_catalog(*events: ExecutorEvent) -> list[ExecutorEvent]:
    """Return events that belong to entry 7."""
    return [make_event(event.event_id, meta=META) for event in events]


async def test_event_as_a_row(sink: PostgresSink, url: str) -> None:
    """Every field of the envelope is in the column where NoETL reads it."""
    await sink.emit(
        make_event(
            1,
            meta={
                "catalog_id": "7",
                "parent_event_id": 478775660589088777,
                "parent_execution_id": 2,
                "prev_event_id": None,
                "node_type": "http",
                "error": {"code": 5},
                "attempts": 0,
            },
        )
    )
    (row,) = await rows_in(url)

    assert {name: value for name, value in row.items() if value is not None and name not in DEFAULTED} == {
        "execution_id": 478775660589088776,
        "catalog_id": 7,
        "event_id": 1,
        "parent_event_id": 478775660589088777,
        "parent_execution_id": 2,
        "created_at": datetime(2026, 5, 31, 3, 14, 15, 124456),  # noqa: DTZ001  (the column has no zone, and is UTC)
        "event_type": "command.completed",
        "node_id": "fetch_calendar",
        "node_name": "fetch_calendar",
        "node_type": "http",
        "status": "COMPLETED",
        "result": {"status": "COMPLETED", "context": {"result": {"items": 1}}},
        "meta": {
            "worker_id": "worker-7",
            "catalog_id": "7",
            "parent_event_id": 478775660589088777,
            "parent_execution_id": 2,
            "prev_event_id": None,
            "node_type": "http",
            "error": {"code": 5},
            "attempts": 0,
        },
        "error": '{"code":5}',
        "worker_id": "worker-7",
    }


DEFAULTED = ("tenant_id", "organization_id", "schema_version", "event_time", "ingest_time")


@pytest.mark.parametrize(
    ("context", "result", "column"),
    [
        pytest.param({}, {"status": "s", "context": {}}, None, id="object"),
        pytest.param([1], {"status": "s"}, [1], id="array"),
        pytest.param("text", {"status": "s"}, "text", id="text"),
        pytest.param(0, {"status": "s"}, 0, id="number"),
        pytest.param(None, {"status": "s"}, None, id="null"),
    ],
)
async def test_context_of_every_kind(sink: PostgresSink, url: str, context: Any, result: Any, column: Any) -> None:
    """An object is stored in result, which allows nothing else; other values in context."""
    await sink.emit(make_event(1, status="s", context=context, meta=META))
    (row,) = await rows_in(url)

    assert (row["result"], row["context"]) == (result, column)


async def test_row_comes_back_as_it_was(sink: PostgresSink, url: str) -> None:
    """A body in the shape of a row keeps its own result, context and node_id."""
    body = {
        "execution_id": "478775660589088776",
        "event_id": "12",
        "catalog_id": 7,
        "event_type": "call.done",
        "status": "COMPLETED",
        "created_at": "2026-01-20T11:56:27.292930",
        "node_id": "fetch:1",
        "node_name": "fetch",
        "context": {"a": 1},
        "result": {"status": "COMPLETED", "reference": {"key": 1}},
        "meta": {"attempts": 2},
        "worker_id": "w",
    }
    await sink.emit(decode(json.dumps(body).encode()))
    (row,) = await rows_in(url)

    assert (row["node_id"], row["node_name"]) == ("fetch:1", "fetch")
    assert (row["context"], row["result"]) == (body["context"], body["result"])
    assert row["meta"] == {"worker_id": "w", "attempts": 2, "catalog_id": 7, "node_id": "fetch:1"}
    assert row["created_at"].isoformat() == body["created_at"]


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        pytest.param(None, "meta.catalog_id: missing", id="no meta"),
        pytest.param({"attempts": 0}, "meta.catalog_id: missing", id="no catalog_id"),
        pytest.param({"catalog_id": None}, "meta.catalog_id: Expected `int`, got `null`", id="null"),
        pytest.param({"catalog_id": "x"}, "meta.catalog_id: Expected `int`, got `str`", id="text"),
        pytest.param([], "meta: Expected `object`, got `array`", id="array"),
        pytest.param(Raw(b'{"catalog_id":7'), "meta: Input data was truncated", id="no JSON"),
        pytest.param({"catalog_id": 7, "parent_event_id": {}}, "meta.parent_event_id: Expected `int", id="parent"),
    ],
)
async def test_event_without_catalog(sink: PostgresSink, url: str, meta: Any, reason: str) -> None:
    """An event without a catalog id is rejected with the missing field's name, never stored under 0."""
    with pytest.raises(EventsRejected) as rejection:
        await sink.emit_batch([make_event(1, context=Raw(b"{}"), meta=meta), *with_catalog(make_event(2))])

    assert rejection.value.reasons[0].startswith(reason)
    assert [row["event_id"] for row in await rows_in(url)] == [2]


async def test_emitted_twice_over_partitions(sink: PostgresSink, url: str) -> None:
    """Events of several partitions are stored once, however often they are emitted."""
    executions = (1, 478775660589088776, 478775660589088876, 2**62)
    events = [make_event(number, execution_id=executions[number % 4], meta=META) for number in range(40)]
    for _ in range(2):
        await sink.emit_batch(events)

    assert len(await rows_in(url)) == 40
    assert (sink.inserted, sink.duplicates) == (40, 40)


async def test_parent_that_comes_late(sink: PostgresSink, url: str) -> None:
    """An event that overtakes its catalog entry waits for it shortly, while the others are stored."""
    orphan = make_event(1, meta={"catalog_id": 8})
    emitting = asyncio.ensure_future(sink.emit_batch([orphan, *with_catalog(make_event(2))]))
    await eventually(lambda: rows_in(url))
    assert [row["event_id"] for row in await rows_in(url)] == [2]

    await execute(url.partition("?")[0], "INSERT INTO noetl.catalog VALUES (8, 'late')")
    await emitting

    assert [row["event_id"] for row in await rows_in(url)] == [1, 2]


async def test_parents_that_never_come(sink: PostgresSink, url: str) -> None:
    """Executions without a catalog entry are rejected with their SQLSTATE, and delay others only shortly."""
    events = [make_event(number, meta={"catalog_id": 7 + number % 3}) for number in range(1_500)]
    async with asyncio.timeout(180):
        with pytest.raises(EventsRejected) as rejection:
            await sink.emit_batch(events)

    assert len(rejection.value.reasons) == 1_000
    assert {reason[:14] for reason in rejection.value.reasons.values()} == {"SQLSTATE 23503"}
    assert len(await rows_in(url)) == 500


async def test_batch_of_one_execution_without_parent(sink: PostgresSink) -> None:
    """A missing catalog entry rejects its events, even if they fill a batch."""
    with pytest.raises(EventsRejected) as rejection:
        await sink.emit_batch([make_event(number, meta={"catalog_id": 8}) for number in range(50)])

    assert len(rejection.value.reasons) == 50


async def test_missing_partition_is_configuration(sink: PostgresSink, url: str) -> None:
    """An execution without a partition is retried, since every later one would be refused too."""
    await execute(url.partition("?")[0], "DROP TABLE noetl.event_default")
    event = make_event(1, execution_id=2**62, meta=META)
    with pytest.raises(SinkUnavailable, match="no partition of relation"):
        await sink.emit(event)
    await execute(url.partition("?")[0], "CREATE TABLE noetl.event_default PARTITION OF noetl.event DEFAULT")
    await sink.emit(event)

    assert len(await rows_in(url)) == 1


async def test_table_is_not_ours_to_make(database_url: str, url: str) -> None:
    """The sink checks the table and never creates it; a plain one is no table of NoETL's."""
    await create_schema(url)
    await execute(database_url, "DROP SCHEMA noetl CASCADE")
    with pytest.raises(TableMismatch, match=r"noetl\.event is missing"):
        await create_schema(url)
    await create_schema(database_url)
    with pytest.raises(TableMismatch, match="catalog_id bigint is missing"):
        await create_schema(url)


async def test_payloads_are_not_decoded(sink: PostgresSink, url: str) -> None:
    """JSON is stored as received: white space and numbers of any length are preserved."""
    meta = Raw(b' {\n"catalog_id" : 7, "n": 123456789012345678901234567890.10 }')
    await sink.emit(make_event(1, context=Raw(b'\n{"a" :1}'), meta=meta))
    connection = await asyncpg.connect(url.partition("?")[0])
    number = await connection.fetchval("SELECT meta ->> 'n' FROM noetl.event WHERE result #>> '{context,a}' = '1'")
    await connection.close()

    assert number == "123456789012345678901234567890.10"


async def test_unknown_mapping_is_refused(database_url: str) -> None:
    """An unknown mapping is refused."""
    with pytest.raises(ValueError, match="mapping: 'noetl2' is none of plain, noetl"):
        PostgresSink.from_url(f"{database_url}?mapping=noetl2")
