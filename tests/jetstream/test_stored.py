"""The stored messages of a stream, one by one, on a real server."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.errors import MessageTooLarge, NatsUnavailable, StreamMissing
from noetl_events.jetstream.message import rfc3339, unix_nanoseconds
from noetl_events.jetstream.storage import find_stored, read_stored, remove_stored, store

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration


async def fill(connection: Connection, stream: StreamDeclaration, count: int) -> None:
    """Store *count* messages."""
    for number in range(1, count + 1):
        await store(connection, f"{stream.name}.x", b"%d" % number, {"Number": f"é{number}"})


async def test_reads_all_there_is_and_leaves_no_consumer(connection: Connection, stream: StreamDeclaration) -> None:
    """Several pages are read in order, with and without bodies, and no consumer is left."""
    await fill(connection, stream, 250)
    whole = [stored async for stored in read_stored(connection, stream.name)]
    heads = [stored async for stored in read_stored(connection, stream.name, headers_only=True)]

    assert [stored.data for stored in whole] == [b"%d" % number for number in range(1, 251)]
    assert [(each.sequence, each.size, each.data) for each in heads[98:101]] == [
        (99, 2, b""),
        (100, 3, b""),
        (101, 3, b""),
    ]
    assert heads[0].headers == whole[0].headers == {"Number": "é1"}
    assert (await (await jetstream(connection)).stream_info(stream.name)).state.consumer_count == 0


async def test_what_comes_or_goes_while_it_reads(connection: Connection, stream: StreamDeclaration) -> None:
    """Messages stored later are not read, so a reader that stores more ends; removed messages are skipped."""
    await fill(connection, stream, 500)
    seen = []
    async with aclosing(read_stored(connection, stream.name)) as reading:
        async for stored in reading:
            seen.append(stored.sequence)
            if stored.sequence == 1:
                for sequence in range(401, 501):
                    await remove_stored(connection, stream.name, sequence)
                await store(connection, f"{stream.name}.x", b"later", {"A": "b"})

    assert seen == list(range(1, 401))


@pytest.mark.slow
async def test_rest_that_goes_while_it_reads_ends_the_reading(
    connection: Connection, stream: StreamDeclaration
) -> None:
    """The reading ends when the rest of its messages is removed."""
    await fill(connection, stream, 500)
    seen = []
    async with asyncio.timeout(180), aclosing(read_stored(connection, stream.name)) as reading:
        async for stored in reading:
            seen.append(stored.sequence)
            if stored.sequence == 1:
                await (await jetstream(connection)).purge_stream(stream.name)

    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) < 500


async def test_reads_since_a_time(connection: Connection, stream: StreamDeclaration) -> None:
    """A start time excludes older messages."""
    await fill(connection, stream, 1)
    future = datetime.now(UTC) + timedelta(hours=1)

    assert [stored async for stored in read_stored(connection, stream.name, since=future)] == []
    past = datetime.now(UTC) - timedelta(hours=1)
    assert len([stored async for stored in read_stored(connection, stream.name, since=past)]) == 1


async def test_found_is_what_was_read(connection: Connection, stream: StreamDeclaration) -> None:
    """A message that is looked up equals the one read, non-ASCII headers and nanoseconds included."""
    await fill(connection, stream, 1)
    [read] = [stored async for stored in read_stored(connection, stream.name)]

    assert await find_stored(connection, stream.name, 1) == read
    assert await find_stored(connection, stream.name, 2) is None


async def test_removed_is_gone(connection: Connection, stream: StreamDeclaration) -> None:
    """Removing a message returns whether the message existed."""
    await fill(connection, stream, 1)

    assert [await remove_stored(connection, stream.name, 1) for _ in range(2)] == [True, False]
    assert not await remove_stored(connection, stream.name, 99)


async def test_message_that_may_not_be_removed(connection: Connection, stream: StreamDeclaration) -> None:
    """A stream that denies deletes raises, and is not taken for one without the message."""
    js = await jetstream(connection)
    await js.add_stream(name=f"{stream.name}_kept", subjects=[f"kept.{stream.name}"], deny_delete=True)
    await store(connection, f"kept.{stream.name}", b"", {"A": "b"})

    with pytest.raises(NatsUnavailable, match="cannot be removed: message delete not permitted"):
        await remove_stored(connection, f"{stream.name}_kept", 1)
    await js.delete_stream(f"{stream.name}_kept")


async def test_missing_stream_is_named(connection: Connection) -> None:
    """Each function reports a missing stream with the command that makes it."""
    with pytest.raises(StreamMissing, match="stream ensure"):
        await find_stored(connection, "nowhere", 1)
    with pytest.raises(StreamMissing, match="stream ensure"):
        await remove_stored(connection, "nowhere", 1)
    with pytest.raises(StreamMissing, match="stream ensure"):
        [_ async for _ in read_stored(connection, "nowhere")]


async def test_message_too_large_is_not_sent(connection: Connection, stream: StreamDeclaration) -> None:
    """A message of exactly the limit is stored; one byte more is refused locally, and the connection stays."""
    client = await connection.client()
    room = client.max_payload - len("NATS/1.0\r\nA: b\r\n\r\n")
    await store(connection, f"{stream.name}.x", b"x" * room, {"A": "b"})

    with pytest.raises(MessageTooLarge):
        await store(connection, f"{stream.name}.x", b"x" * (room + 1), {"A": "b"})
    assert await connection.client() is client
    assert client.is_connected


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        pytest.param("1970-01-01T00:00:00.000000001Z", 1, id="a nanosecond"),
        pytest.param("2026-05-31T03:14:15.123456789Z", 1780197255123456789, id="nine digits"),
    ],
)
def test_instants_keep_their_nanoseconds(text: str, nanoseconds: int) -> None:
    """A time and its text are the same instant, to the nanosecond."""
    assert unix_nanoseconds(text) == nanoseconds
    assert rfc3339(nanoseconds) == text


def test_instants_as_servers_shorten_them() -> None:
    """Times without trailing zeros, as servers write them, are read."""
    assert unix_nanoseconds("1970-01-01T00:00:01.5Z") == 1_500_000_000
    assert unix_nanoseconds("1970-01-01T00:00:01Z") == 1_000_000_000
