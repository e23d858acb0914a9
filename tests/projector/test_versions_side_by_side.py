"""
Writers and tables of the first version beside the present one: no event is lost, and a
duplicate in the stream is one row.

The first version publishes under the bare `event_id`, and its table has no column for the digest.
"""

from __future__ import annotations

from contextlib import aclosing
from itertools import product
from typing import TYPE_CHECKING

import pytest

from consumers.sinks.postgres import PostgresSink, create_schema
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_event, make_events
from tests.sinks.conftest import database_url, postgres_url
from tests.sinks.postgres_database import execute, fetch

if TYPE_CHECKING:
    from noetl_events.sinks.nats import MessageIds
    from tests.projector.bench import Bench

__all__ = ["database_url", "postgres_url"]

FORMS: tuple[MessageIds, ...] = ("event_id", "digest")
OLD_TABLE = "ALTER TABLE noetl.event DROP COLUMN digest"


async def emit(bench: Bench, form: MessageIds, count: int = 20) -> None:
    """Emit the same events as the other writers, with message ids of this *form*."""
    sink = NatsSink(bench.connection, subject=f"{bench.stream.name}.{{event_type}}", message_id=form)
    await sink.emit_batch(make_events(count))
    await sink.aclose()


@pytest.mark.parametrize("table", ["old", "new"])
@pytest.mark.parametrize(("first", "second"), [*product(FORMS, FORMS)])
async def test_one_row_whoever_writes(
    bench: Bench, database_url: str, first: MessageIds, second: MessageIds, table: str
) -> None:
    """Each event of two writers is one row and no dead letter, however often the stream has it."""
    await create_schema(database_url)
    if table == "old":
        await execute(database_url, OLD_TABLE)
    await emit(bench, first)
    await emit(bench, second)
    expected = 20 if first == second else 40
    sink = PostgresSink(database_url)
    async with aclosing(sink), bench.projecting(sink) as projector:
        await eventually(lambda: projector.progress.stored == expected)

        assert projector.progress.dead_letters == 0
    [[rows]] = await fetch(database_url, "SELECT count(*) FROM noetl.event")
    assert (rows, sink.conflicts, sink.variants) == (20, 0, 0)


async def test_way_there_and_back(bench: Bench, database_url: str) -> None:
    """An old table with rows of the first version is upgraded, reverted and upgraded again: the rows stay the same."""
    await create_schema(database_url)
    await execute(database_url, OLD_TABLE)
    for number, step in enumerate(("old", "upgraded", "rolled back", "upgraded again")):
        if "upgraded" in step:
            await create_schema(database_url, upgrade=True)
        if step == "rolled back":
            await execute(database_url, OLD_TABLE)
        sink = PostgresSink(database_url)
        # The stream has the earlier events, and ten more.
        await sink.emit_batch(make_events(10 * (number + 1)))
        await sink.aclose()

        assert (sink.inserted, sink.duplicates, sink.conflicts, sink.variants) == (10, 10 * number, 0, 0), step


@pytest.mark.parametrize("table", ["old", "new"])
async def test_conflict_is_found_whoever_wrote_first(bench: Bench, database_url: str, table: str) -> None:
    """A different event with the key of a first version's row is a dead letter, where the first version lost it."""
    await create_schema(database_url)
    if table == "old":
        await execute(database_url, OLD_TABLE)
    await emit(bench, "event_id")
    new = NatsSink(bench.connection, subject=f"{bench.stream.name}.{{event_type}}")
    await new.emit(make_event(7, step="another step"))
    await new.aclose()
    sink = PostgresSink(database_url)
    async with aclosing(sink), bench.projecting(sink) as projector:
        await eventually(lambda: projector.progress.stored + projector.progress.dead_letters == 21)

        assert projector.progress.dead_letters_by_kind == {"conflict": 1}
