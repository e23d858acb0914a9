"""Two different events with one key: the later one needs a dead letter, or it is lost."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from consumers.backfill import Rebuild
from consumers.dead_letters.letter import FIRST
from noetl_events import encode, open_sink
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.consume.history import History, Span
from noetl_events.jetstream.message import delivery_of, rfc3339
from noetl_events.testing import make_event
from tests.sinks.conflicts import another
from tests.verify.bodies import carry, sequences, verify
from tests.verify.test_dead import publish_dead

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration
    from tests.verify.conftest import Table

BODIES = [encode(event) for event in (make_event(1), make_event(2), another(1), make_event(1), make_event(3))]


async def test_conflict_is_lost_until_there_is_a_letter(
    connection: Connection, stream: StreamDeclaration, dead_stream: StreamDeclaration, sqlite_table: Table
) -> None:
    """An event without row or dead letter is lost; with a dead letter it is dead, and the result complete."""
    await carry(connection, stream.name, sqlite_table.url, BODIES)
    lost = await verify(connection, stream.name, sqlite_table.url, dead=dead_stream.name)
    await publish_dead(connection, stream.name, dead_stream.name, 3)
    buried = await verify(connection, stream.name, sqlite_table.url, dead=dead_stream.name)
    await sqlite_table.change("UPDATE {} SET status = 'x' WHERE event_id = 2")
    changed = await verify(connection, stream.name, sqlite_table.url, dead=dead_stream.name)

    assert (lost.events, lost.rows, lost.conflicts, lost.lost, lost.missing) == (4, 3, 1, 1, 0)
    assert (sequences(lost, "lost"), lost.is_complete) == ([3], False)
    assert (buried.conflicts, buried.lost, buried.dead, buried.is_complete) == (1, 0, 1, True)
    assert (changed.conflicts, changed.different, changed.is_complete) == (1, 1, False)


async def test_either_event_may_be_the_row(
    connection: Connection, stream: StreamDeclaration, dead_stream: StreamDeclaration, sqlite_table: Table
) -> None:
    """With two projectors the later event may be the row; then the earlier one needs the dead letter."""
    await carry(connection, stream.name, sqlite_table.url, [BODIES[2], BODIES[1], BODIES[0], BODIES[4]])
    await publish_dead(connection, stream.name, dead_stream.name, 3)
    found = await verify(connection, stream.name, sqlite_table.url, dead=dead_stream.name)

    assert (found.rows, found.conflicts, found.dead, found.is_complete) == (3, 1, 1, True)


async def test_letter_sent_again_under_another_id(
    connection: Connection, stream: StreamDeclaration, sqlite_table: Table
) -> None:
    """After a resend the dead letter is gone, and the message with the header of its origin replaces it."""
    await carry(connection, stream.name, sqlite_table.url, BODIES)
    js = await jetstream(connection)
    async with History(connection, Span(stream=stream.name, start=3, end=3)) as history:
        (message,) = await history.read()
    place = f"{stream.name}:3:{rfc3339(delivery_of(message).stored_ns)}"
    await js.publish(f"{stream.name}.x", encode(another(99)), headers={FIRST: place})
    sink = open_sink(sqlite_table.url)
    async with aclosing(sink), History(connection, Span(stream=stream.name)) as history:
        done = await Rebuild(history, sink).run()
    found = await verify(connection, stream.name, sqlite_table.url)

    assert (done.stored, done.conflicts, done.rejected, done.faults[0].kind) == (5, 1, 0, "conflict")
    assert (found.rows, found.conflicts, found.lost, found.is_complete) == (4, 1, 0, True)
