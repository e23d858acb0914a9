"""Colliding ids through the stream and the projector into a table: no event is lost."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from consumers.dead_letters.store import DeadLetterReader, LetterFilter
from consumers.sinks.postgres import create_schema
from consumers.verification.verify import Verification
from noetl_events import EventEmitter, Snowflake, decode, open_sink
from noetl_events.identity import digest
from noetl_events.jetstream.consume.history import Span
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually
from tests.sinks.conftest import database_url, postgres_url
from tests.sinks.postgres_database import execute, fetch

if TYPE_CHECKING:
    from pathlib import Path

    from noetl_events import ExecutorEvent
    from tests.projector.bench import Bench

__all__ = ["database_url", "postgres_url"]

WORKERS, EACH = 4, 100


async def emit_colliding(bench: Bench) -> list[ExecutorEvent]:
    """Emit through workers with generators that make the same ids, and return all events."""
    sink = NatsSink(bench.connection, subject=f"{bench.stream.name}.{{event_type}}")
    emitted = []
    for worker in range(WORKERS):
        clock = iter(range(1_780_000_000_000, 1_780_000_000_000 + EACH))
        ids = Snowflake(node=7, first_sequence=0, clock=clock.__next__)
        emitter = EventEmitter(5, sink, worker_id=f"worker-{worker}", new_id=ids)
        emitted += [await emitter.emit("step.enter", "fetch", "STARTED", {"number": number}) for number in range(EACH)]
    await sink.aclose()
    return emitted


@pytest.mark.parametrize("destination", ["postgres", "sqlite"])
async def test_every_event_is_a_row_or_a_letter(
    bench: Bench, destination: str, database_url: str, tmp_path: Path
) -> None:
    """Of colliding events the first is the row and each other a dead letter; a redelivery, also rewritten, is none."""
    url = database_url if destination == "postgres" else f"sqlite:///{tmp_path}/events.db"
    if destination == "postgres":
        await create_schema(url)
    emitted = await emit_colliding(bench)
    async with aclosing(open_sink(url)) as sink, bench.projecting(sink) as projector:
        await eventually(lambda: projector.progress.stored + projector.progress.dead_letters == WORKERS * EACH)
    if destination == "postgres":
        rewritten = "UPDATE noetl.event SET created_at = date_trunc('second', created_at), context = '1'"
        rows = {row["digest"] for row in await fetch(url, "SELECT digest FROM noetl.event")}
        await execute(url, rewritten)
        # A consumer of its own reads every event once more: the same conflicts, and no other.
        async with aclosing(open_sink(url)) as sink, bench.projecting(sink, name="again") as again:
            await eventually(lambda: again.progress.stored + again.progress.dead_letters == WORKERS * EACH)

        assert (again.progress.stored, again.progress.dead_letters_by_kind["conflict"]) == (EACH, (WORKERS - 1) * EACH)
        graveyard = DeadLetterReader(bench.connection, stream=bench.dead.name)
        async with aclosing(graveyard.letters(LetterFilter(kinds=("conflict",), execution=5))) as letters:
            buried = {digest(decode(letter.body)) async for letter in letters}
        assert rows | buried == set(map(digest, emitted))
        assert len(rows) == EACH
    else:
        found = await Verification(
            bench.connection, Span(stream=bench.stream.name), url, dead_letters=bench.dead.name
        ).run()
        counts = (found.events, found.rows, found.conflicts, found.dead, found.lost)

        assert counts == (WORKERS * EACH, EACH, (WORKERS - 1) * EACH, (WORKERS - 1) * EACH, 0)
    assert projector.progress.dead_letters_by_kind == {"conflict": (WORKERS - 1) * EACH}
