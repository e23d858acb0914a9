"""A stream edited by hand, before a projector starts and while it runs: served, reported, or refused by field."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from consumers.dead_letters.store import DeadLetterReader, LetterFilter
from noetl_events.jetstream.api import ask
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consume.history import History, Span
from noetl_events.jetstream.declarations import DEAD_LETTERS, TRIALS, StreamDeclaration
from noetl_events.jetstream.errors import StreamDrift
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream, find_stream
from noetl_events.testing import eventually, make_events
from noetl_events.testing.nats_server import NatsServer
from tests.projector.bench import Bench
from tests.projector.served import Moody, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.projector.served import Served

EVENTS = StreamDeclaration(name="edited", subjects=("edited.>",))
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return one server for all of these tests."""
    with NatsServer(store_dir=tmp_path_factory.mktemp("edited")) as running:
        yield running


@pytest.fixture
async def edited(server: NatsServer) -> AsyncIterator[Connection]:
    """Return a connection to a server with the three streams, deleted after the test."""
    async with Connection(ConnectOptions(servers=server.url)) as connection:
        for declared in (EVENTS, DEAD_LETTERS, TRIALS):
            await ensure_stream(connection, declared)
        yield connection
        for declared in (EVENTS, DEAD_LETTERS, TRIALS):
            await ask(connection, f"STREAM.DELETE.{declared.name}")


async def edit(connection: Connection, name: str, **changes: Any) -> None:
    """Edit the stream as `nats stream edit` does."""
    config = (await find_stream(connection, name)).config | changes
    _, error = await ask(connection, f"STREAM.UPDATE.{name}", json.dumps(config).encode())
    assert error is None, error


async def remake(connection: Connection, **changes: Any) -> None:
    """Create the stream of events again, with *changes* that no edit can make."""
    config = {k: v for k, v in (await find_stream(connection, EVENTS.name)).config.items() if k != "metadata"}
    await ask(connection, f"STREAM.DELETE.{EVENTS.name}")
    _, error = await ask(connection, f"STREAM.CREATE.{EVENTS.name}", json.dumps(config | changes).encode())
    assert error is None, error


@asynccontextmanager
async def projecting(connection: Connection) -> AsyncIterator[tuple[Served, Moody, Bench]]:
    """Run a projector that checks its streams continuously."""
    sink = Moody()
    async with serving(connection, EVENTS, sink) as served:
        served.service.stream_monitor._interval = 0.05
        yield served, sink, Bench(connection, EVENTS, DEAD_LETTERS)


async def project(connection: Connection) -> None:
    """Run a projector until it has checked its stream, and raise the exception that ends it."""
    async with serving(connection, EVENTS, Moody()) as served:
        await eventually(lambda: served.service.stream_monitor.fault)
        await asyncio.sleep(0.2)


async def test_readers_are_forgotten_soon(edited: Connection) -> None:
    """A stream that drops idle consumers sooner than a reader asks for is read all the same."""
    await edit(edited, EVENTS.name, consumer_limits={"inactive_threshold": 4 * SECOND})
    await edit(edited, DEAD_LETTERS.name, consumer_limits={"inactive_threshold": 4 * SECOND})
    await Bench(edited, EVENTS, DEAD_LETTERS).publish(make_events(3))
    async with History(edited, Span(stream=EVENTS.name), patience=180.0) as history:
        assert len(await history.read()) == 3
    assert [letter async for letter in DeadLetterReader(edited).letters(LetterFilter())] == []


async def test_put_back(edited: Connection) -> None:
    """A stream that is as declared again makes the projector ready, and that is logged."""
    with capture_logs() as lines:
        async with projecting(edited) as (served, _, _):
            await eventually(served.is_ready)
            await edit(edited, EVENTS.name, no_ack=True)
            await eventually(served.is_not_ready)
            await edit(edited, EVENTS.name, no_ack=False)
            await eventually(served.is_ready)

    told = [line["event"] for line in lines if line.get("field") == "no_ack"]
    assert told == ["stream.unsafe", "stream.as_declared"]


@pytest.mark.parametrize("declared", [DEAD_LETTERS, TRIALS], ids=["dead letters", "trials"])
async def test_other_stream_edited(edited: Connection, declared: StreamDeclaration) -> None:
    """A stream that a projector writes to is checked as well."""
    async with projecting(edited) as (served, _, _):
        await eventually(served.is_ready)
        await edit(edited, declared.name, no_ack=True)
        await eventually(served.is_not_ready)
        part, reason = await served.why()

    assert (part, reason.startswith(f"stream {declared.name}: no_ack: True")) == ("stream", True), reason


@pytest.mark.parametrize("retention", ["workqueue", "interest"])
async def test_other_retention_is_refused(edited: Connection, retention: str) -> None:
    """A stream with work-queue or interest retention is not read, and no message of it is acknowledged."""
    await remake(edited, retention=retention)
    bench = Bench(edited, EVENTS, DEAD_LETTERS)
    if retention == "workqueue":
        await bench.publish(make_events(5))
    with pytest.raises(StreamDrift, match=f"retention: '{retention}' on the server, 'limits' declared"):
        await project(edited)

    state = (await find_stream(edited, EVENTS.name)).state
    assert state.messages == (5 if retention == "workqueue" else 0)


async def test_mirror(edited: Connection, tmp_path: Path) -> None:
    """A mirror that allows it is projected: its events are stored, and the projector is ready."""
    mirror = StreamDeclaration(name="mirror", subjects=EVENTS.subjects)
    body = {"name": "mirror", "storage": "file", "num_replicas": 1, "mirror": {"name": EVENTS.name}}
    await ask(edited, "STREAM.CREATE.mirror", json.dumps(body).encode())
    await Bench(edited, EVENTS, DEAD_LETTERS).publish(make_events(10))
    sink = Moody()
    async with serving(edited, mirror, sink) as served:
        await eventually(lambda: len(sink.events) == 10)
        assert await served.is_ready()
    with pytest.raises(StreamDrift, match="mirror: 'edited' on the server"):
        await ensure_stream(edited, mirror)
    await ask(edited, "STREAM.DELETE.mirror")
