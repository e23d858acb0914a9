"""The history reader: its range, its order and its end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consume.history import History, Span
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.errors import PermissionDenied, StreamMissing
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing import eventually
from noetl_events.testing.nats_server import NatsServer
from tests.jetstream.past import consumers, fill, past, publish, read_all, sequences

if TYPE_CHECKING:
    from pathlib import Path

    from noetl_events.jetstream.message import Message

ACCOUNTS = """
authorization { users = [
    { user: all, password: x }
    { user: reader, password: x, permissions: { publish: { deny: "$JS.API.CONSUMER.MSG.NEXT.>" } } }
] }
"""


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        pytest.param({}, range(1, 21), id="everything"),
        pytest.param({"start": 5}, range(5, 21), id="from a sequence"),
        pytest.param({"end": 7}, range(1, 8), id="up to a sequence"),
        pytest.param({"start": 20}, range(20, 21), id="the last"),
        pytest.param({"start": 7, "end": 7}, range(7, 8), id="one"),
        pytest.param({"start": 21}, (), id="beyond the end"),
        pytest.param({"start": 8, "end": 7}, (), id="nothing"),
        pytest.param({"end": 1_000}, range(1, 21), id="an end to come"),
        pytest.param({"start": datetime(2020, 1, 1, tzinfo=UTC)}, range(1, 21), id="from a time"),
        pytest.param({"start": datetime.now(UTC) + timedelta(hours=1)}, (), id="from a time to come"),
    ],
)
async def test_span_is_read_whole_and_in_order(
    connection: Connection, stream: StreamDeclaration, span: dict[str, Any], expected: range
) -> None:
    """The range includes both ends and nothing else, and the reader leaves no consumer."""
    await fill(connection, stream.name, 20)

    assert await past(connection, stream.name, **span) == [*expected]
    assert await consumers(connection, stream.name) == []


async def test_time_divides_the_stream(connection: Connection, stream: StreamDeclaration) -> None:
    """A start time includes the messages stored at that time or later."""
    await fill(connection, stream.name, 5)
    moment = datetime.now(UTC)
    await fill(connection, stream.name, 5)

    assert await past(connection, stream.name, start=moment) == [6, 7, 8, 9, 10]


async def test_subject_filters(connection: Connection, stream: StreamDeclaration) -> None:
    """Messages of other subjects are skipped, also at the end of the stream."""
    for number in range(10):
        await publish(connection, f"{stream.name}.{'odd' if number % 2 else 'even'}", [b"x"])
    async with History(connection, Span(stream=stream.name, subject=f"{stream.name}.even")) as history:
        assert history.total == 5
        assert await read_all(history) == [1, 3, 5, 7, 9]


async def test_headers_alone(connection: Connection, stream: StreamDeclaration) -> None:
    """Reading headers only keeps order and sequences."""
    await fill(connection, stream.name, 3)
    async with History(connection, Span(stream=stream.name, headers_only=True)) as history:
        found: list[Message] = []
        while batch := await history.read():
            found += batch

    assert sequences(found) == [1, 2, 3]
    assert {message.data for message in found} == {b""}


async def test_what_is_stored_meanwhile_is_not_read(connection: Connection, stream: StreamDeclaration) -> None:
    """The reading ends at the stream's end at its start, however the stream grows."""
    await fill(connection, stream.name, 3_000)
    async with History(connection, Span(stream=stream.name)) as history:
        first = await history.read(10)
        await fill(connection, stream.name, 500)
        rest = await read_all(history)

    assert sequences(first) + rest == [*range(1, 3_001)]
    assert history.total == 3_000


async def test_empty_stream_ends_at_once(connection: Connection, stream: StreamDeclaration) -> None:
    """An empty or purged stream ends the reading at once."""
    assert await past(connection, stream.name) == []
    await fill(connection, stream.name, 10)
    await (await jetstream(connection)).purge_stream(stream.name)

    assert await past(connection, stream.name) == []


async def test_last_messages_deleted_before(connection: Connection, stream: StreamDeclaration) -> None:
    """A stream with its last two messages deleted is read to its last present one."""
    await fill(connection, stream.name, 10)
    js = await jetstream(connection)
    for sequence in (4, 9, 10):
        await js.delete_msg(stream.name, sequence)

    assert await past(connection, stream.name) == [1, 2, 3, 5, 6, 7, 8]


async def test_last_messages_purged_meanwhile(connection: Connection, stream: StreamDeclaration) -> None:
    """A reading ends at a heartbeat when its last messages are purged meanwhile."""
    await fill(connection, stream.name, 100)
    span = Span(stream=stream.name)
    async with History(connection, span, max_messages=10, heartbeat=0.5) as history:
        first = await history.read(1)
        await (await jetstream(connection)).purge_stream(stream.name)
        rest = await read_all(history)

    assert sequences(first) + rest == [*range(1, len(rest) + 2)]
    assert len(rest) < 20


@pytest.mark.parametrize("bounds", [{"max_messages": 40}, {"max_bytes": 4_000_000}], ids=["in messages", "in bytes"])
async def test_memory_is_bounded(connection: Connection, stream: StreamDeclaration, bounds: dict[str, int]) -> None:
    """A paused reading receives no more than its bounds, and delivers all messages later."""
    await publish(connection, f"{stream.name}.x", [bytes(100_000)] * 200)
    async with History(connection, Span(stream=stream.name), **bounds) as history:
        await history.read(1)
        consumer = history._consumer
        assert consumer is not None
        assert consumer._inbox is not None
        requests = consumer._inbox.requests
        await eventually(lambda: requests.outstanding == 0 or consumer._buffer.bytes > 2_000_000)
        await (await connection.client()).flush()
        assert len(consumer._buffer) <= 40
        assert await read_all(history) == [*range(2, 201)]


async def test_missing_stream_is_named(connection: Connection) -> None:
    """A missing stream is an error at once."""
    with pytest.raises(StreamMissing, match="stream nowhere does not exist"):
        await past(connection, "nowhere")


async def test_gap_before_the_start_is_said(
    connection: Connection, stream: StreamDeclaration, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reader with a start that is no longer stored gets the present messages, and a warning."""
    await fill(connection, stream.name, 10)
    await (await jetstream(connection)).purge_stream(stream.name, seq=6)

    assert await past(connection, stream.name, start=2) == [6, 7, 8, 9, 10]
    assert "history.begins_later" in capsys.readouterr().out


async def test_denied_pull_is_named(tmp_path: Path) -> None:
    """An account without permission to pull gets the denied subject, whatever the patience."""
    with NatsServer(store_dir=tmp_path, config=ACCOUNTS) as server:
        options = ConnectOptions(servers=server.url, user="all", password="x")
        async with Connection(options) as connection:
            await ensure_stream(connection, StreamDeclaration(name="events", subjects=("events.>",)))
            await fill(connection, "events", 1)
        async with (
            Connection(structs.replace(options, user="reader")) as connection,
            History(connection, Span(stream="events"), heartbeat=0.2) as history,
        ):
            with pytest.raises(PermissionDenied, match=r"(?i)consumer\.msg\.next\.events"):
                await history.read()
