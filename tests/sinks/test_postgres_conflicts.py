"""Postgres: an event with an existing key is compared with the stored row."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from msgspec import Raw, structs
from structlog.testing import capture_logs

from consumers.sinks.postgres import PostgresSink, create_schema
from noetl_events import SinkUnavailable
from noetl_events.identity import digest
from noetl_events.testing import make_event, make_events
from tests.sinks.conflicts import another, emit
from tests.sinks.postgres_database import execute, fetch, stored_events
from tests.sinks.test_postgres_noetl import TABLE as NOETL_TABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events import ExecutorEvent

# This is the table of the first version.
OLD_TABLE = "ALTER TABLE noetl.event DROP COLUMN digest"


@pytest.fixture(params=["digest", "old table", "noetl"])
async def url(request: pytest.FixtureRequest, database_url: str) -> str:
    """Return the URL of a table of each kind."""
    if request.param == "noetl":
        await execute(database_url, NOETL_TABLE + "INSERT INTO noetl.catalog VALUES (7, 'some/playbook')")
        return f"{database_url}?mapping=noetl"
    await create_schema(database_url)
    if request.param == "old table":
        await execute(database_url, OLD_TABLE)
    return database_url


def for_table(url: str, events: Sequence[ExecutorEvent]) -> list[ExecutorEvent]:
    """Return *events* in the form that the table of *url* accepts."""
    if "noetl" not in urlsplit(url).query:
        return list(events)
    return [structs.replace(event, meta={"catalog_id": 7}) for event in events]


async def types_in(url: str) -> dict[int, str]:
    """Return the type of each row by its event_id."""
    rows = await fetch(url.partition("?")[0], "SELECT event_id, event_type FROM noetl.event ORDER BY event_id")
    return {row["event_id"]: row["event_type"] for row in rows}


async def test_conflict_is_rejected_and_its_neighbours_are_stored(url: str) -> None:
    """The stored row stays, the reason names it, and the other events of the batch are stored."""
    sink = PostgresSink.from_url(url)
    await sink.emit_batch(for_table(url, make_events(3)))
    reasons = await emit(sink, for_table(url, [make_event(4), another(2), make_event(5), make_event(3)]))

    assert [*reasons] == [1]
    assert "'command.completed' of step 'fetch_calendar' at 2026-05-31T03:14:15.125456Z; this one" in reasons[1]
    assert await types_in(url) == dict.fromkeys(range(1, 6), "command.completed")
    assert (sink.inserted, sink.duplicates, sink.conflicts, sink.rejected) == (5, 1, 1, 1)
    await sink.aclose()


async def test_table_that_takes_no_row_is_held_beside_conflicts(url: str) -> None:
    """Conflicts do not prove that the table accepts rows: if all others are refused alike, nothing is rejected."""
    sink = PostgresSink.from_url(url)
    await sink.emit_batch(for_table(url, make_events(20)))
    await execute(url.partition("?")[0], "ALTER TABLE noetl.event ADD CONSTRAINT no_more CHECK (event_id <= 20)")
    batch = [*(another(number) for number in range(1, 21)), *(make_event(number) for number in range(21, 33))]
    with pytest.raises(SinkUnavailable, match="none of 32 events was stored, and 12 were refused for one reason"):
        await sink.emit_batch(for_table(url, batch))
    await execute(url.partition("?")[0], "ALTER TABLE noetl.event DROP CONSTRAINT no_more")

    assert [*await emit(sink, for_table(url, batch))] == list(range(20))
    await sink.aclose()


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "reversed"])
async def test_of_two_in_one_batch_the_first_is_stored(url: str, order: int) -> None:
    """Events of one batch with one key are compared too: different ones conflict, and equal ones are one row."""
    pair = [make_event(2), another(2)][::order]
    sink = PostgresSink.from_url(url)
    reasons = await emit(sink, for_table(url, [make_event(9), *pair, pair[0], make_event(1), pair[1]]))

    assert [*reasons] == [2, 5]
    assert await types_in(url) == {1: "command.completed", 2: pair[0].event_type, 9: "command.completed"}
    assert (sink.inserted, sink.duplicates, sink.conflicts) == (3, 1, 2)
    await sink.aclose()


async def test_same_event_again_is_never_a_conflict(url: str) -> None:
    """An event is stored once, however often, by whichever sink and in whichever batch it is emitted."""
    events = for_table(url, make_events(100))
    for _ in range(3):
        sink = PostgresSink.from_url(url)
        assert await emit(sink, [*events, *events[::-1]]) == {}
        assert sink.variants == 0
        await sink.aclose()

    assert len(await types_in(url)) == 100


async def test_same_id_in_another_execution_is_another_key(url: str) -> None:
    """Equal ids in different executions are different keys: both events are stored."""
    sink = PostgresSink.from_url(url)
    await sink.emit_batch(for_table(url, make_events(3)))

    assert await emit(sink, for_table(url, [another(2, execution_id=8), make_event(2, execution_id=9)])) == {}
    assert sink.inserted == 5
    await sink.aclose()


async def test_other_payload_is_a_variant(url: str) -> None:
    """The same event with another payload is neither rejected nor stored: it is counted, and logged once a batch."""
    sink = PostgresSink.from_url(url)
    await sink.emit_batch(for_table(url, make_events(5)))
    masked = [structs.replace(event, context={"masked": True}) for event in make_events(5)]
    with capture_logs() as logs:
        assert await emit(sink, for_table(url, masked)) == {}

    assert (sink.variants, sink.duplicates, sink.conflicts, sink.rejected) == (5, 5, 0, 0)
    assert [(line["event"], line["events"]) for line in logs] == [("postgres.variants", 5)]
    await sink.aclose()


REWRITES = {
    "milliseconds": "created_at = date_trunc('milliseconds', created_at)",
    "seconds": "created_at = date_trunc('seconds', created_at)",
    "a day": "created_at = date_trunc('day', created_at)",
    "arrival": "created_at = created_at + interval '73 milliseconds'",
    "arrival later": "created_at = now()",
    "another zone": "created_at = created_at + interval '2 hours'",
    "masked": """context = '{"masked": true}'""",
    "written anew": "meta = meta || '{}', context = context || context",
}


@pytest.mark.parametrize("digests", ["kept", "gone"])
@pytest.mark.parametrize("rewrite", REWRITES.values(), ids=REWRITES)
async def test_rewritten_row_is_no_conflict(database_url: str, rewrite: str, digests: str) -> None:
    """A row that another writer changed still matches its event, and another event is still a conflict."""
    await create_schema(database_url)
    sink = PostgresSink(database_url)
    events = make_events(20)
    await sink.emit_batch(events)
    gone = ", digest = NULL" if digests == "gone" else ""
    await execute(database_url, f"ALTER TABLE noetl.event ADD tool text; UPDATE noetl.event SET {rewrite}{gone}")

    assert await emit(sink, events) == {}
    assert [*await emit(sink, [another(7), *events])] == [0]
    assert sink.inserted == 20
    await sink.aclose()


@pytest.mark.parametrize("digits", [0, 3, 4])
async def test_column_of_less_than_microseconds(database_url: str, digits: int) -> None:
    """Within the resolution of a column times prove nothing, so other fields tell events apart."""
    await create_schema(database_url)
    await execute(
        database_url, f"ALTER TABLE noetl.event ALTER created_at TYPE timestamptz({digits}), {OLD_TABLE[24:]}"
    )
    sink = PostgresSink(database_url)
    events = [make_event(number, created_at=make_event(1).created_at) for number in range(1, 20)]
    await sink.emit_batch(events)

    assert await emit(sink, events) == {}
    assert [*await emit(sink, [*events, structs.replace(events[4], context="other")])] == [19]
    assert [*await emit(sink, [structs.replace(events[4], worker_id="worker-8")])] == [0]
    await sink.aclose()


async def test_time_that_python_has_not(database_url: str) -> None:
    """A row with an infinite time is compared by its other fields."""
    await create_schema(database_url)
    sink = PostgresSink(database_url)
    await sink.emit_batch(make_events(2))
    await execute(database_url, "UPDATE noetl.event SET created_at = 'infinity', digest = NULL")

    assert await emit(sink, make_events(2)) == {}
    assert [*await emit(sink, [another(1), make_event(2, context="other")])] == [0, 1]
    await sink.aclose()


async def test_two_sinks_and_different_events_of_one_key(url: str) -> None:
    """With two projectors that insert at once each key has one row, and each different event is one conflict."""
    draw = Random(7)
    one, other = for_table(url, make_events(300)), for_table(url, [another(number) for number in range(1, 301)])
    first, second = PostgresSink.from_url(url), PostgresSink.from_url(url)
    found = {"command.completed": 0, "step.enter": 0}

    async def emit_all(sink: PostgresSink, events: list[ExecutorEvent]) -> None:
        for start in range(0, 300, 20):
            part = events[start : start + 20]
            draw.shuffle(part)
            for place in await emit(sink, part):
                found[part[place].event_type] += 1

    await asyncio.gather(emit_all(first, one), emit_all(second, other))
    stored = [*(await types_in(url)).values()]

    assert len(stored) == 300
    assert {name: stored.count(name) + lost for name, lost in found.items()} == dict.fromkeys(found, 300)
    await asyncio.gather(first.aclose(), second.aclose())


async def test_row_deleted_in_between_is_stored_again(database_url: str) -> None:
    """If a row is deleted between the insert that met its key and the comparison, the event is stored."""
    await create_schema(database_url)
    sink = PostgresSink(database_url)
    await sink.emit_batch(make_events(3))
    # A statement trigger runs between the two, and sees the committed rows.
    await execute(
        database_url,
        "CREATE FUNCTION retention() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN DELETE FROM noetl.event WHERE event_id = 2 AND event_type = 'command.completed'; RETURN NULL; END $$;"
        "CREATE TRIGGER retention AFTER INSERT ON noetl.event FOR EACH STATEMENT EXECUTE FUNCTION retention()",
    )

    assert await emit(sink, [make_event(1), another(2), make_event(3)]) == {}
    assert (await types_in(database_url))[2] == "step.enter"
    await sink.aclose()


@pytest.mark.parametrize("before", [[1], [1, 1]], ids=["copied", "staged"])
async def test_table_that_drops_rows_is_said_and_holds_up_nothing(database_url: str, before: list[int]) -> None:
    """A trigger that drops rows is the owner's decision; the sink logs it and continues, from the first batch on."""
    await create_schema(database_url)
    sink = PostgresSink(database_url)
    await sink.emit_batch([make_event(event_id) for event_id in before])
    await execute(
        database_url,
        "CREATE FUNCTION drop_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
        "CREATE TRIGGER drop_it BEFORE INSERT ON noetl.event FOR EACH ROW EXECUTE FUNCTION drop_it()",
    )
    with capture_logs() as logs:
        assert await emit(sink, make_events(3)) == {}

    assert [(line["event"], line["events"], line["event_id"]) for line in logs] == [("postgres.rows_missing", 2, 2)]
    await sink.aclose()


async def test_trigger_that_masks_makes_no_conflict_of_what_is_new(url: str) -> None:
    """A row that a trigger changes during the insert is not compared with its event."""
    await execute(
        url.partition("?")[0],
        "CREATE FUNCTION mask() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.context = '{\"masked\": true}'; "
        "NEW.created_at = date_trunc('second', NEW.created_at); NEW.worker_id = 'x'; RETURN NEW; END $$;"
        "CREATE TRIGGER mask BEFORE INSERT ON noetl.event FOR EACH ROW EXECUTE FUNCTION mask()",
    )
    sink = PostgresSink.from_url(url)
    events = for_table(url, make_events(5))
    assert await emit(sink, events[:1]) == {}
    # If a row exists already, the whole batch goes through the staging table.
    for event in events[1:]:
        assert 1 not in await emit(sink, [events[0], event])
    assert await emit(sink, for_table(url, make_events(10, start=6))) == {}

    assert len(await types_in(url)) == sink.inserted == 15
    # Without a digest a truncated and masked row looks like another event's.
    assert (await emit(sink, events) == {}) is await has_digest(url)
    await sink.aclose()


async def has_digest(url: str) -> bool:
    """Return true if the table has the digest column."""
    query = "SELECT FROM pg_attribute WHERE attrelid = 'noetl.event'::regclass AND attname = 'digest'"
    return bool(await fetch(url.partition("?")[0], query))


async def test_role_of_the_first_version_is_told_what_it_lacks(database_url: str) -> None:
    """A role that may read only the key gets an error with the statement to run; then the same sink continues."""
    await create_schema(database_url)
    role = f"projector_{uuid4().hex}"
    await execute(
        database_url,
        f"CREATE ROLE {role} LOGIN PASSWORD 'p'; GRANT USAGE ON SCHEMA noetl TO {role};"
        f"GRANT INSERT, SELECT (execution_id, event_id) ON noetl.event TO {role}",
    )
    sink = PostgresSink(f"postgresql://{role}:p@{database_url.rpartition('@')[2]}")
    with pytest.raises(SinkUnavailable) as refusal:
        await sink.emit_batch(make_events(2))
    _, _, statement = refusal.value.reason.partition("run: ")

    assert f"role {role} may not read event_type, step, status, created_at, context, worker_id, meta" in str(
        refusal.value
    )
    await execute(database_url, statement)
    # Without permission to read it, the digest is neither written nor read.
    await sink.emit_batch(make_events(2))
    assert [*await emit(sink, [another(1), make_event(2)])] == [0]
    assert {row["digest"] for row in await fetch(database_url, "SELECT digest FROM noetl.event")} == {None}
    await sink.aclose()
    await execute(database_url, f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_replaced_nul_is_still_the_event(database_url: str) -> None:
    """With `on_nul=replace` a repeated event is the same, and one that had U+FFFD there is a variant."""
    url = f"{database_url}?on_nul=replace"
    await create_schema(url)
    sink = PostgresSink.from_url(url)
    event = make_event(1, context=Raw(b'{"text":"\\u0000"}'))
    await sink.emit(event)

    assert await emit(sink, [event, event]) == {}
    assert sink.variants == 0
    assert (await fetch(database_url, "SELECT digest FROM noetl.event"))[0]["digest"] == digest(event)
    assert len(await stored_events(database_url)) == 1
    await sink.aclose()
