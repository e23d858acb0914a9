"""A stream created again, restored or shortened: noticed at once, also over restarts, and no event is missed."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from noetl_events.jetstream.api import ask
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import DEAD_LETTERS, TRIALS, StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.stream_identity import Mark, StreamIdentity
from noetl_events.jetstream.streams import FoundStream, StreamState, ensure_stream, find_stream
from noetl_events.testing import eventually, make_events
from noetl_events.testing.nats_server import NatsServer
from tests.old_servers import old_server
from tests.projector.bench import Bench, ids
from tests.projector.served import Moody, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

EVENTS = StreamDeclaration(name="events", subjects=("events.>",))
STREAMS = (EVENTS, DEAD_LETTERS, TRIALS)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """Return a server with a store that can be restored from a backup."""
    with NatsServer(store_dir=tmp_path / "nats") as running:
        yield running


@pytest.fixture
async def owner(server: NatsServer) -> AsyncIterator[Connection]:
    """Return a connection, with the three streams created."""
    async with Connection(ConnectOptions(servers=server.url)) as connection:
        for declared in STREAMS:
            await ensure_stream(connection, declared)
        yield connection


async def publish(connection: Connection, first: int, count: int) -> None:
    """Store *count* events with ids from *first* on."""
    await Bench(connection, EVENTS, DEAD_LETTERS).publish(make_events(count, start=first))


async def make_anew(connection: Connection) -> None:
    """Delete the stream, and create it again."""
    await ask(connection, f"STREAM.DELETE.{EVENTS.name}")
    await ensure_stream(connection, EVENTS)


class Backup:
    """A backup of the files of the event stream, and optionally of its consumers."""

    def __init__(self, server: NatsServer, folder: Path) -> None:
        self._server = server
        self._live = server._store_dir / "jetstream" / "$G" / "streams" / EVENTS.name
        self._kept = folder / "backup"

    def take(self) -> None:
        """Stop the server shortly, and copy the files."""
        self._server.terminate()
        shutil.copytree(self._live, self._kept)
        self._server.start()

    def set_back(self, *, consumers: bool) -> None:
        """Restore the stream's files; with *consumers* theirs, too."""
        self._server.kill()
        for part in ("msgs", "obs") if consumers else ("msgs",):
            shutil.rmtree(self._live / part, ignore_errors=True)
            if (self._kept / part).exists():
                shutil.copytree(self._kept / part, self._live / part)
        self._server.start()


async def test_made_anew_right_after_the_start(owner: Connection) -> None:
    """A stream created again at any early moment is noticed before its first message is stored, and none is missed."""
    sink = Moody()
    await publish(owner, 1, 5)
    async with serving(owner, EVENTS, sink) as served:
        await eventually(lambda: len(sink.events) == 5)
        await make_anew(owner)
        await publish(owner, 101, 5)
        await eventually(lambda: len(sink.events) == 10)
        assert served.service.stream_monitor.identity_changes == 1


async def test_made_anew_while_no_projector_runs(owner: Connection) -> None:
    """A restarted projector recognises that its stream was replaced, and logs it once."""
    sink = Moody()
    await publish(owner, 1, 5)
    async with serving(owner, EVENTS, sink):
        await eventually(lambda: len(sink.events) == 5)
    await make_anew(owner)
    await publish(owner, 101, 20)
    changes = []
    for _ in range(2):
        async with serving(owner, EVENTS, sink) as served:
            await eventually(lambda: len(sink.events) == 25)
            changes.append(served.service.stream_monitor.identity_changes)

    assert changes == [1, 0]


async def test_same_stream_is_not_another(owner: Connection, server: NatsServer) -> None:
    """Restarts, removed messages, a purge and expired messages are no loss of the stream."""
    sink = Moody()
    await publish(owner, 1, 10)
    async with serving(owner, EVENTS, sink) as served:
        watch = served.service.stream_monitor
        await eventually(lambda: len(sink.events) == 10)
        for request, body in (
            (f"STREAM.MSG.DELETE.{EVENTS.name}", b'{"seq":10}'),
            (f"STREAM.MSG.DELETE.{EVENTS.name}", b'{"seq":3}'),
            (f"STREAM.PURGE.{EVENTS.name}", b""),
        ):
            await ask(owner, request, body)
            await watch._check_all()
        server.terminate()
        server.start()
        async with Connection(ConnectOptions(servers=server.url)) as other:
            await publish(other, 11, 5)
        await eventually(lambda: len(sink.events) == 15)
        await watch._check_all()
        assert watch.identity_changes == 0


@pytest.mark.parametrize("refilled", [0, 3, 10, 30], ids=lambda count: f"refilled {count}")
@pytest.mark.parametrize("consumers", [True, False], ids=["with its consumers", "and not its consumers"])
async def test_set_back(server: NatsServer, owner: Connection, tmp_path: Path, refilled: int, consumers: bool) -> None:  # noqa: FBT001
    """
    A store that is restored during a run is noticed, however far other publishers have filled it by then.

    Every event that is in it then is stored, also where the consumer is ahead of it.
    """
    sink, backup = Moody(), Backup(server, tmp_path)
    await publish(owner, 1, 20)
    async with serving(owner, EVENTS, sink) as served:
        await eventually(lambda: len(sink.events) == 20)
        await eventually(lambda: settled(owner, 20))
        await asyncio.to_thread(backup.take)
        await publish(owner, 21, 10)
        await eventually(lambda: len(sink.events) >= 30)
        await eventually(lambda: settled(owner, 30))
        await served.service.stream_monitor._check_all()
        await asyncio.to_thread(backup.set_back, consumers=consumers)
        if refilled:
            async with Connection(ConnectOptions(servers=server.url)) as other:
                await publish(other, 101, refilled)
        await eventually(lambda: served.service.stream_monitor.identity_changes == 1, timeout=180)
        await publish(owner, 201, 1)
        await eventually(lambda: {*range(101, 101 + refilled), 201} <= set(ids(sink)), timeout=180)


async def settled(connection: Connection, sequence: int) -> bool:
    """Return true if the consumer has acknowledged every message up to *sequence*, also on disk."""
    info = await Bench(connection, EVENTS, DEAD_LETTERS).unsettled()
    return info == 0 and (await find_stream(connection, EVENTS.name)).state.last_seq == sequence


async def test_set_back_while_no_projector_runs(server: NatsServer, owner: Connection, tmp_path: Path) -> None:
    """The next start notices the restore, and reads the events stored since in the place of the lost ones."""
    sink, backup = Moody(), Backup(server, tmp_path)
    await publish(owner, 1, 20)
    await asyncio.to_thread(backup.take)
    await publish(owner, 21, 10)
    async with serving(owner, EVENTS, sink):
        await eventually(lambda: len(sink.events) == 30)
        await eventually(lambda: settled(owner, 30))
    await asyncio.to_thread(backup.set_back, consumers=False)
    await publish(owner, 101, 20)
    async with serving(owner, EVENTS, sink) as served:
        await eventually(lambda: set(range(101, 121)) <= set(ids(sink)), timeout=180)
        assert served.service.stream_monitor.identity_changes == 1


async def test_ahead_on_an_older_server(tmp_path: Path) -> None:
    """Where the server cannot reset a consumer the projector is not ready, with the remedy, until that is applied."""
    with NatsServer(store_dir=tmp_path / "nats", binary=old_server("2.12")) as server:
        async with Connection(ConnectOptions(servers=server.url)) as owner:
            for declared in STREAMS:
                await ensure_stream(owner, declared)
            sink, backup = Moody(), Backup(server, tmp_path)
            await publish(owner, 1, 20)
            await asyncio.to_thread(backup.take)
            await publish(owner, 21, 10)
            async with serving(owner, EVENTS, sink):
                await eventually(lambda: len(sink.events) == 30)
                await eventually(lambda: settled(owner, 30))
            await asyncio.to_thread(backup.set_back, consumers=False)
            await publish(owner, 101, 5)
            async with serving(owner, EVENTS, sink) as served:
                if not set(range(101, 106)) <= set(ids(sink)):
                    await eventually(lambda: served.service.projectors[0].progress.holding)
                    assert await served.is_not_ready()
                    assert "nats consumer rm events projector" in (await served.why())[1]
                    await ask(owner, "CONSUMER.DELETE.events.projector")
                await eventually(lambda: set(range(101, 106)) <= set(ids(sink)), timeout=180)


async def test_lag_of_a_paused_consumer(owner: Connection) -> None:
    """The lag of a paused consumer is the age of the oldest waiting event, also for a new process."""
    began = time.time_ns()
    await publish(owner, 1, 10)
    published = time.time_ns()
    config = {"durable_name": "projector", "ack_policy": "explicit", "deliver_policy": "all", "max_deliver": -1}
    body: dict[str, Any] = {"stream_name": EVENTS.name, "config": config | {"max_ack_pending": 20_000}}
    await ask(owner, f"CONSUMER.DURABLE.CREATE.{EVENTS.name}.projector", encoded(body))
    await ask(owner, f"CONSUMER.PAUSE.{EVENTS.name}.projector", encoded({"pause_until": "2099-01-01T00:00:00Z"}))
    async with serving(owner, EVENTS, Moody()) as served:
        [projector] = served.service.projectors
        await eventually(lambda: projector.progress.oldest_ns)
        now = time.time_ns()
        lag = projector.progress.lag_seconds(oldest_ns=projector.oldest_ns, now_ns=now)
        assert projector.unsettled == 10
        assert now - published <= lag * 1e9 + 1e6
        assert lag * 1e9 - 1e6 <= now - began
        await ask(owner, f"CONSUMER.PAUSE.{EVENTS.name}.projector", encoded({"pause_until": None}))


def encoded(body: Any) -> bytes:
    """Return *body* as JSON."""
    return json.dumps(body).encode()


def found(sequence: int, *, created: str = "2026-01-01T00:00:00Z", second: int = 0) -> FoundStream:
    """Return a stream that ends at *sequence*, with a message stored at *second* of a minute."""
    last_ts = f"2026-01-01T00:00:{second:02d}Z"
    return FoundStream({}, StreamState(last_seq=sequence, first_seq=1, last_ts=last_ts), created)


async def test_marks_are_few_and_far_between(connection: Connection) -> None:
    """However long a stream is watched, a few marks are kept: the last ones, and some of each earlier period."""
    identity = StreamIdentity(connection, "none")
    for sequence in range(1, 1_001):
        identity._remember(Mark("x", sequence, sequence))
    sequences = [mark.sequence for mark in identity.marks]

    assert len(sequences) <= 32
    assert sequences[-8:] == list(range(993, 1_001))
    assert sequences == sorted(set(sequences))
    assert sequences[0] == 1


async def test_what_was_noted_is_read(connection: Connection) -> None:
    """The marks of a process are read by the next one; unreadable ones are dropped."""
    first, second = StreamIdentity(connection, "none"), StreamIdentity(connection, "none")
    assert await first.compare(found(0)) is None
    assert await first.compare(found(5, second=1)) is None
    second.load(first.dump())
    second.load(b"{")
    assert second.marks == first.marks
    replaced = await second.compare(found(3, second=2))

    assert replaced is not None
    assert (replaced.kept, replaced.before.sequence, replaced.now.sequence) == (0, 5, 3)
