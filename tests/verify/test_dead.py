"""Events in the stream that no destination can have, told apart from missing ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consumers.dead_letters import DeadLetters
from noetl_events import encode
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.consume.history import History, Span
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing import make_events
from tests.jetstream.past import publish
from tests.verify.bodies import carry, sequences, verify

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration
    from tests.verify.conftest import Table

BODIES = [encode(event) for event in make_events(6)]


async def publish_dead(connection: Connection, stream: str, dead: str, sequence: int) -> None:
    """Dead-letter a message as a projector does after a rejection."""
    async with History(connection, Span(stream=stream, start=sequence, end=sequence)) as history:
        (message,) = await history.read()
    await DeadLetters(connection, prefix=dead).publish(message, "rejected", "too blue")


async def test_rejected_event_is_dead(
    connection: Connection, stream: StreamDeclaration, dead_stream: StreamDeclaration, sqlite_table: Table
) -> None:
    """An event with a dead letter and no row is dead; with a row it is stored; with neither it is missing."""
    await carry(connection, stream.name, sqlite_table.url, BODIES)
    for sequence in (2, 3):
        await publish_dead(connection, stream.name, dead_stream.name, sequence)
    await sqlite_table.change("DELETE FROM {} WHERE event_id = 2")
    dead = await verify(connection, stream.name, sqlite_table.url, dead=dead_stream.name)
    await sqlite_table.change("DELETE FROM {} WHERE event_id = 4")
    missing = await verify(connection, stream.name, sqlite_table.url, dead=dead_stream.name)

    assert (dead.events, dead.rows, dead.dead, dead.missing) == (6, 5, 1, 0)
    assert sequences(dead, "dead") == [2]
    assert dead.is_complete
    assert (sequences(missing, "dead"), sequences(missing, "missing")) == ([2], [4])


async def test_malformed_message_is_dead(
    connection: Connection, stream: StreamDeclaration, sqlite_table: Table
) -> None:
    """A malformed message is reported with its reason, with or without a dead letter or a dead-letter stream."""
    await carry(connection, stream.name, sqlite_table.url, [BODIES[0], b"{}", BODIES[1]])
    found = await verify(connection, stream.name, sqlite_table.url)

    assert (found.events, found.rows, found.dead, found.missing) == (3, 2, 1, 0)
    assert [(one.sequence, one.reason) for one in found.examples["dead"]] == [
        (2, "execution_id: missing, and required")
    ]
    assert found.is_complete


async def test_letter_of_an_earlier_stream_hides_nothing(
    connection: Connection, stream: StreamDeclaration, dead_stream: StreamDeclaration, sqlite_table: Table
) -> None:
    """A stream created again repeats sequences; dead letters of the former one do not count for it."""
    await publish(connection, f"{stream.name}.x", BODIES)
    await publish_dead(connection, stream.name, dead_stream.name, 2)
    await (await jetstream(connection)).delete_stream(stream.name)
    await ensure_stream(connection, stream)
    await carry(connection, stream.name, sqlite_table.url, BODIES)
    await sqlite_table.change("DELETE FROM {} WHERE event_id = 2")
    found = await verify(connection, stream.name, sqlite_table.url, dead=dead_stream.name)

    assert (found.missing, found.dead) == (1, 0)


async def test_strange_letters_are_passed_over(
    connection: Connection, stream: StreamDeclaration, dead_stream: StreamDeclaration, sqlite_table: Table
) -> None:
    """Foreign messages among the dead letters, and those of another stream, are ignored."""
    await carry(connection, stream.name, sqlite_table.url, BODIES)
    js = await jetstream(connection)
    for headers in (
        {},
        {"Noetl-Stream": stream.name},
        {"Noetl-Stream": stream.name, "Noetl-Sequence": "x", "Noetl-Time": "y"},
        {"Noetl-Stream": "another", "Noetl-Sequence": "1", "Noetl-Time": "2026-05-31T03:14:15Z"},
    ):
        await js.publish(f"{dead_stream.name}.x", b"", headers=headers)
    found = await verify(connection, stream.name, sqlite_table.url, dead=dead_stream.name)

    assert (found.is_complete, found.dead) == (True, 0)
