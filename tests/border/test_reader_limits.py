"""Readers without a durable consumer: they respect the limits of server and stream, and fail with the reason."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from noetl_events.jetstream.api import ask
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consume.history import History, Span
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.errors import Refused
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.storage import read_stored
from noetl_events.jetstream.streams import ensure_stream, find_stream
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import make_events
from noetl_events.testing.nats_server import NatsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

STREAM = StreamDeclaration()
EVENTS = 600


@pytest.fixture
async def limited(tmp_path: Path) -> AsyncIterator[Connection]:
    """Return a connection to a server that limits requests, with a stream of some hundred events."""
    config = "jetstream { limits { max_request_batch: 250 } }"
    with NatsServer(store_dir=tmp_path / "nats", config=config) as server:
        async with Connection(ConnectOptions(servers=server.url)) as connection:
            await ensure_stream(connection, STREAM)
            sink = NatsSink(connection)
            await sink.emit_batch(make_events(EVENTS))
            await sink.aclose()
            yield connection


async def edit(connection: Connection, **changes: object) -> None:
    """Edit the stream as `nats stream edit` does."""
    config = (await find_stream(connection, STREAM.name)).config | changes
    _, error = await ask(connection, f"STREAM.UPDATE.{STREAM.name}", json.dumps(config).encode())
    assert error is None, error


async def read(connection: Connection) -> tuple[int, int]:
    """Return the number of messages that `rebuild` and `verify` read, and that `dead list` reads."""
    counted = 0
    async with History(connection, Span(stream=STREAM.name), patience=3_600.0) as history:
        while messages := await history.read():
            counted += len(messages)
    async with aclosing(read_stored(connection, STREAM.name)) as reading:
        return counted, len([stored async for stored in reading])


async def test_requests_as_large_as_the_server_allows(limited: Connection) -> None:
    """A server that limits the batch of a request is read all the same."""
    assert await read(limited) == (EVENTS, EVENTS)


async def test_consumers_kept_as_long_as_the_stream_allows(limited: Connection) -> None:
    """A stream that drops idle consumers soon is read all the same."""
    await edit(limited, consumer_limits={"inactive_threshold": 3_000_000_000, "max_ack_pending": 10})

    assert await read(limited) == (EVENTS, EVENTS)


async def test_stream_that_no_reader_may_read(limited: Connection) -> None:
    """A refusal that no retry can change ends the reading at once, in the server's own words."""
    await ask(limited, f"STREAM.DELETE.{STREAM.name}")
    body = {"name": STREAM.name, "subjects": ["noetl.events.>"], "retention": "workqueue", "storage": "file"}
    await ask(limited, f"STREAM.CREATE.{STREAM.name}", json.dumps(body).encode())
    sink = NatsSink(limited)
    await sink.emit_batch(make_events(3))
    await sink.aclose()
    with pytest.raises(Refused, match="consumer in pull mode requires explicit ack policy on workqueue stream"):
        async with asyncio.timeout(180):
            await read(limited)
