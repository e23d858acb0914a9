"""Workers that are copies of each other lose no event."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from noetl_events import Snowflake, encode
from noetl_events.ids import EPOCH_MS
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import make_event
from tests.sinks.test_nats import read_stream

if TYPE_CHECKING:
    from nats.js import JetStreamContext

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration

PROGRAM = Path(__file__).with_name("many_workers.py")


@pytest.mark.parametrize("kind", ["forked", "threaded"])
async def test_copies_of_a_worker_lose_nothing(
    nats_url: str, stream: StreamDeclaration, subject: str, outside: JetStreamContext, kind: str
) -> None:
    """Four copies of one worker under one worker id emit 500 events each: the stream has 2,000, with 2,000 ids."""
    process = await asyncio.create_subprocess_exec(sys.executable, PROGRAM, nats_url, subject, kind, "4", "500")

    assert await process.wait() == 0
    stored = await read_stream(outside, stream.name)
    assert len(stored) == 2_000


async def test_generators_made_to_collide_lose_nothing(
    connection: Connection, stream: StreamDeclaration, subject: str, outside: JetStreamContext
) -> None:
    """Two sinks with equal ids for different events store both of each, alone and in batches."""
    sinks = [
        NatsSink(connection, subject=subject, new_id=Snowflake(node=1, first_sequence=0, clock=lambda: EPOCH_MS + 1))
        for _ in range(2)
    ]
    for number, sink in enumerate(sinks):
        await sink.emit(make_event(None, step=f"alone {number}"))
        await sink.emit_batch([make_event(None, step=f"{number}.{place}") for place in range(300)])
        await sink.aclose()

    assert (await outside.stream_info(stream.name)).state.messages == 602


async def test_guessed_id_silences_no_event(
    connection: Connection, stream: StreamDeclaration, subject: str, outside: JetStreamContext
) -> None:
    """A message that another client stores under the id of an event first does not make the event a duplicate."""
    await outside.publish(f"{stream.name}.x", b"guessed", headers={"Nats-Msg-Id": "7"})
    await outside.publish(f"{stream.name}.x", encode(make_event(7, step="other")), headers={"Nats-Msg-Id": "7-0"})
    sink = NatsSink(connection, subject=subject)
    await sink.emit(make_event(7))
    await sink.aclose()

    assert (await read_stream(outside, stream.name))[-1].data == encode(make_event(7))


async def test_old_message_ids_can_be_asked_for(
    connection: Connection, stream: StreamDeclaration, subject: str, outside: JetStreamContext
) -> None:
    """With `message_id="event_id"` the stream knows an event by its old id, and takes the old one for a duplicate."""
    old = NatsSink(connection, subject=subject, message_id="event_id")
    new = NatsSink(connection, subject=subject)
    for sink in (old, old, new, new):
        await sink.emit(make_event(7))

    headers = [message.headers for message in await read_stream(outside, stream.name)]
    assert headers[0] == {"Nats-Msg-Id": "7"}
    # An old and a new writer of one event store it twice in the stream; its key makes it one row.
    assert len(headers) == 2
    for sink in (old, new):
        await sink.aclose()


def test_other_message_ids_are_refused(connection: Connection) -> None:
    """An invalid form of message id is refused with the two valid ones."""
    with pytest.raises(ValueError, match="message_id: 'uuid' is neither 'digest' nor 'event_id'"):
        NatsSink(connection, message_id="uuid")  # type: ignore[arg-type]
