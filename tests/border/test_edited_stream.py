"""A stream edited by hand, before a projector starts and while it runs: served, told, or refused by the field."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from consumers.dead_letters.graveyard import Graveyard, Wanted
from noetl_events.jetstream.api import ask
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import DEAD_LETTERS, TRIALS, StreamDeclaration
from noetl_events.jetstream.errors import StreamDrift
from noetl_events.jetstream.history import History, Span
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
    """Return a connection to a server with the three streams, which are gone after the test."""
    async with Connection(ConnectOptions(servers=server.url)) as connection:
        for declared in (EVENTS, DEAD_LETTERS, TRIALS):
            await ensure_stream(connection, declared)
        yield connection
        for declared in (EVENTS, DEAD_LETTERS, TRIALS):
            await ask(connection, f"STREAM.DELETE.{declared.name}")


async def edit(connection: Connection, name: str, **changes: Any) -> None:
    """Do what `nats stream edit` does."""
    config = (await find_stream(connection, name)).config | changes
    _, error = await ask(connection, f"STREAM.UPDATE.{name}", json.dumps(config).encode())
    assert error is None, error


async def remake(connection: Connection, **changes: Any) -> None:
    """Make the stream of events anew, with *changes* that no edit can make."""
    config = {k: v for k, v in (await find_stream(connection, EVENTS.name)).config.items() if k != "metadata"}
    await ask(connection, f"STREAM.DELETE.{EVENTS.name}")
    _, error = await ask(connection, f"STREAM.CREATE.{EVENTS.name}", json.dumps(config | changes).encode())
    assert error is None, error


@asynccontextmanager
async def projecting(connection: Connection) -> AsyncIterator[tuple[Served, Moody, Bench]]:
    """Run a projector that looks at its streams all the time."""
    sink = Moody()
    async with serving(connection, EVENTS, sink) as served:
        served.service.stream_watch._interval = 0.05
        yield served, sink, Bench(connection, EVENTS, DEAD_LETTERS)


async def project(connection: Connection) -> None:
    """Run a projector until it has looked at its stream, and raise what ends it."""
    async with serving(connection, EVENTS, Moody()) as served:
        await eventually(lambda: served.service.stream_watch.fault)
        await asyncio.sleep(0.2)


# What makes a projector say that it is not well, and go on with what there is.
UNSAFE: dict[str, dict[str, Any]] = {
    "no_ack": {"no_ack": True},
    "sealed": {"sealed": True},
    "discard": {"max_msgs": 1_000},
    "max_msgs_per_subject": {"max_msgs_per_subject": 500},
    "discard_new_per_subject": {"max_msgs_per_subject": 500, "discard": "new", "discard_new_per_subject": True},
    "subjects": {"subjects": ["elsewhere.>"]},
}
# What is told, and changes nothing.
TOLD: dict[str, dict[str, Any]] = {
    "max_age": {"max_age": 3_600 * SECOND},
    "duplicate_window": {"duplicate_window": 30 * SECOND},
    "max_bytes": {"max_bytes": 10**7, "discard": "new"},
    "max_msgs": {"max_msgs": 10**6, "discard": "new"},
    "max_msg_size": {"max_msg_size": 100_000},
    "deny_delete": {"deny_delete": True},
    "deny_purge": {"deny_purge": True},
    "max_consumers": {"max_consumers": 10},
    "allow_direct": {"allow_direct": False},
    "allow_atomic": {"allow_atomic": False},
    "allow_batched": {"allow_batched": False},
    "allow_rollup_hdrs": {"allow_rollup_hdrs": True},
    "allow_msg_ttl": {"allow_msg_ttl": True},
    "subject_transform": {"subject_transform": {"src": "edited.>", "dest": "edited.x.>"}},
    "consumer_limits": {"consumer_limits": {"inactive_threshold": 3_600 * SECOND}},
}
HARMLESS: dict[str, dict[str, Any]] = {
    "description": {"description": "x"},
    "metadata": {"metadata": {"a": "b"}},
    "compression": {"compression": "s2"},
    "republish": {"republish": {"src": "edited.>", "dest": "echo.>"}},
    "subject_delete_marker_ttl": {
        "subject_delete_marker_ttl": 60 * SECOND,
        "allow_msg_ttl": True,
        "allow_rollup_hdrs": True,
    },
    "allow_msg_schedules": {"allow_msg_schedules": True, "allow_rollup_hdrs": True},
}


@pytest.mark.parametrize("field", UNSAFE)
async def test_edited_so_that_events_are_lost(edited: Connection, field: str) -> None:
    """Noticed while it runs: not ready, with the name of the field, and what the stream has is stored all the same."""
    async with projecting(edited) as (served, sink, bench):
        await bench.publish(make_events(10))
        await eventually(lambda: len(sink.events) == 10)
        assert await served.is_ready()
        await edit(edited, EVENTS.name, **UNSAFE[field])
        await eventually(served.is_not_ready)
        part, reason = await served.why()

        assert (part, f"{field}: " in reason) == ("stream", True), reason
        assert await served.is_alive()
    async with projecting(edited) as (served, _, _):
        # Likewise from its start on.
        await eventually(lambda: served.service.stream_watch.fault)
        assert await served.is_not_ready()
        assert f"{field}: " in (await served.why())[1]


@pytest.mark.parametrize("field", [*TOLD, *HARMLESS])
async def test_edited_otherwise(edited: Connection, field: str) -> None:
    """What costs no event is told once, by the name of the field, or not at all; it is ready, and events are stored."""
    with capture_logs() as lines:
        async with projecting(edited) as (served, sink, bench):
            await eventually(served.is_ready)
            looks = served.service.stream_watch._looks
            await edit(edited, EVENTS.name, **(TOLD | HARMLESS)[field])
            await eventually(lambda: served.service.stream_watch._looks > looks + 3)
            await bench.publish(make_events(10))
            await eventually(lambda: len(sink.events) == 10)
            assert await served.is_ready()
            assert served.service.progress["projector"].buried == 0

    told = [line["field"] for line in lines if line["event"] == "stream.differs" and line["stream"] == EVENTS.name]
    assert told.count(field) == (field in TOLD), told


async def test_readers_are_forgotten_soon(edited: Connection) -> None:
    """A stream that forgets its consumers sooner than a reader asks for is read all the same."""
    await edit(edited, EVENTS.name, consumer_limits={"inactive_threshold": 4 * SECOND})
    await edit(edited, DEAD_LETTERS.name, consumer_limits={"inactive_threshold": 4 * SECOND})
    await Bench(edited, EVENTS, DEAD_LETTERS).publish(make_events(3))
    async with History(edited, Span(stream=EVENTS.name), patience=2.0) as history:
        assert len(await history.read()) == 3
    assert [letter async for letter in Graveyard(edited).letters(Wanted())] == []


async def test_put_back(edited: Connection) -> None:
    """A stream that is as declared again makes the projector ready again, and that is told."""
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
    """A stream that a projector writes to is looked at likewise."""
    async with projecting(edited) as (served, _, _):
        await eventually(served.is_ready)
        await edit(edited, declared.name, no_ack=True)
        await eventually(served.is_not_ready)
        part, reason = await served.why()

    assert (part, reason.startswith(f"stream {declared.name}: no_ack: True")) == ("stream", True), reason


@pytest.mark.parametrize("retention", ["workqueue", "interest"])
async def test_other_retention_is_refused(edited: Connection, retention: str) -> None:
    """A stream that gives each event away once, or keeps it for nobody, is not read: nothing of it is acknowledged."""
    await remake(edited, retention=retention)
    bench = Bench(edited, EVENTS, DEAD_LETTERS)
    if retention == "workqueue":
        await bench.publish(make_events(5))
    with pytest.raises(StreamDrift, match=f"retention: '{retention}' on the server, 'limits' declared"):
        await project(edited)

    state = (await find_stream(edited, EVENTS.name)).state
    assert state.messages == (5 if retention == "workqueue" else 0)


async def test_retention_edited(edited: Connection) -> None:
    """A retention that is changed while it runs makes it not ready."""
    async with projecting(edited) as (served, _, _):
        await eventually(served.is_ready)
        await edit(edited, EVENTS.name, retention="interest")
        await eventually(served.is_not_ready)
        assert "retention: 'interest'" in (await served.why())[1]


@pytest.mark.parametrize("changes", [{"storage": "memory"}, {"persist_mode": "async", "allow_atomic": False}], ids=str)
async def test_made_otherwise(edited: Connection, changes: dict[str, Any]) -> None:
    """What can only be chosen when a stream is made is noticed from the start on, and events are stored."""
    await remake(edited, **changes)
    async with projecting(edited) as (served, sink, bench):
        await bench.publish(make_events(5))
        await eventually(lambda: len(sink.events) == 5)
        await eventually(served.is_not_ready)
        assert next(iter(changes)) in (await served.why())[1]


async def test_mirror(edited: Connection, tmp_path: Path) -> None:
    """What can work on a mirror does: its events are stored, and the projector is ready."""
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
