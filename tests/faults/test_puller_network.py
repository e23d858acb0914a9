"""The projector behind a failing network, and with a consumer and a stream that are deleted."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sinks.memory import MemorySink
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_events
from noetl_events.testing.proxy import FaultyProxy
from tests.projector.bench import Bench, ids

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from noetl_events.testing.nats_server import NatsServer
    from noetl_events.testing.proxy import Direction

LONG = os.environ.get("NOETL_FAULTS") == "long"
ROUNDS = 20 if LONG else 4
ROUND = 500
# A dead connection is found by three pings or two missed heartbeats; a reconnection and the ack wait follow.
RECOVERY = 180.0
DEAD = StreamDeclaration(name="dead", subjects=("dead.>",))

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
async def proxy(own_server: NatsServer) -> AsyncIterator[FaultyProxy]:
    """Return a proxy in front of the server."""
    async with FaultyProxy("127.0.0.1", own_server.port) as opened:
        yield opened


@pytest.fixture
async def behind(proxy: FaultyProxy, own_connection: Connection) -> AsyncIterator[Bench]:
    """Return a bench with projectors that reach the server through the proxy."""
    await ensure_stream(own_connection, DEAD)
    async with Connection(ConnectOptions(servers=proxy.url("nats"))) as connection:
        yield Bench(connection, StreamDeclaration(), DEAD)


async def publish(connection: Connection, count: int, *, start: int = 1) -> None:
    """Store *count* events in the stream, in order."""
    sink = NatsSink(connection)
    await sink.emit_batch(make_events(count, start=start))
    await sink.aclose()


def has(sink: MemorySink, count: int) -> bool:
    """Return true if *count* events are stored."""
    return len(sink.events) >= count


async def test_connection_cut(behind: Bench, proxy: FaultyProxy, own_connection: Connection) -> None:
    """A connection reset repeatedly during a drain: every event is stored once, and acknowledged."""
    sink = MemorySink()
    async with behind.projecting(sink, ack_wait=1.0):
        for number in range(ROUNDS):
            await publish(own_connection, ROUND, start=number * ROUND + 1)
            await eventually(partial(has, sink, number * ROUND + 50), timeout=RECOVERY)
            proxy.cut()
        await eventually(partial(has, sink, ROUNDS * ROUND), timeout=RECOVERY)
        await eventually(lambda: Bench(own_connection, behind.stream, DEAD).unsettled_is(0), timeout=RECOVERY)

    assert sorted(map(int, filter(None, ids(sink)))) == list(range(1, ROUNDS * ROUND + 1))
    assert await behind.dead_letters() == []


async def test_stopped_while_messages_are_on_their_way(
    behind: Bench, proxy: FaultyProxy, own_connection: Connection
) -> None:
    """Messages that the server sent before the projector's stop are waited for, stored and acknowledged."""
    sink, seen = MemorySink(), Bench(own_connection, behind.stream, DEAD)

    async def is_delivered() -> bool:
        info = await (await jetstream(own_connection)).consumer_info(behind.stream.name, behind.consumer.name)
        return info.delivered is not None and info.delivered.stream_seq == 20

    async with behind.projecting(sink):
        await publish(own_connection, 10)
        await eventually(partial(has, sink, 10))
        proxy.delay("down", 1.0)
        await publish(own_connection, 10, start=11)
        await eventually(is_delivered)

    assert ids(sink) == list(range(1, 21))
    await eventually(lambda: seen.unsettled_is(0))


async def test_connection_black_holed(behind: Bench, proxy: FaultyProxy, own_connection: Connection) -> None:
    """A silently dead connection is detected: events published meanwhile are stored soon after."""
    sink = MemorySink()
    async with behind.projecting(sink, ack_wait=1.0):
        await publish(own_connection, ROUND)
        await eventually(partial(has, sink, ROUND))
        proxy.black_hole()
        await publish(own_connection, ROUND, start=ROUND + 1)
        if LONG:
            # No side gets an error, so only the client's pings detect the loss.
            await eventually(lambda: not behind.connection.is_connected, timeout=RECOVERY)
        proxy.heal()
        await eventually(partial(has, sink, 2 * ROUND), timeout=RECOVERY)

    # A shared consumer promises no order: messages lost in the black hole are redelivered after the ack wait.
    assert sorted(map(int, filter(None, ids(sink)))) == list(range(1, 2 * ROUND + 1))


async def test_deliveries_lost(behind: Bench, proxy: FaultyProxy, own_connection: Connection) -> None:
    """Deliveries lost on a working connection are redelivered after the ack wait."""
    sink = MemorySink()
    lost: list[int] = []

    def is_lost(direction: Direction, chunk: bytes) -> bool:
        # The proxy drops a chunk of complete messages only: TCP would not leave a hole in one.
        whole = direction == "down" and chunk.startswith(b"HMSG noetl.events.") and chunk.endswith(b"\r\n")
        if whole and b"$JS.ACK" in chunk and len(lost) < ROUNDS:
            lost.append(len(chunk))
            return True
        return False

    def is_past(number: int) -> bool:
        return len(lost) > number or has(sink, number + 2)

    async with behind.projecting(sink, ack_wait=1.0):
        await publish(own_connection, 1)
        await eventually(partial(has, sink, 1))
        proxy.drop(is_lost)
        for number in range(ROUNDS):
            await publish(own_connection, 1, start=number + 2)
            await eventually(partial(is_past, number))
        await eventually(partial(has, sink, ROUNDS + 1), timeout=RECOVERY)

    assert lost
    assert sorted(map(int, filter(None, ids(sink)))) == list(range(1, ROUNDS + 2))


async def test_delivery_lost_to_one_that_is_served_in_order(
    behind: Bench, proxy: FaultyProxy, own_connection: Connection
) -> None:
    """A delivery behind a lost one is not written before it: both are redelivered, in order."""
    sink, number = MemorySink(), 1
    lost: list[int] = []

    def is_lost(direction: Direction, chunk: bytes) -> bool:
        whole = direction == "down" and chunk.startswith(b"HMSG noetl.events.") and chunk.endswith(b"\r\n")
        if whole and chunk.count(b"$JS.ACK") == 1 and not lost:
            lost.append(len(chunk))
            return True
        return False

    async with behind.projecting(sink, exclusive=True, ack_wait=3.0):
        await publish(own_connection, 1)
        await eventually(partial(has, sink, 1))
        proxy.drop(is_lost)
        # The first delivery is dropped, unless it shares a chunk with a heartbeat.
        while not lost:
            number += 1
            await publish(own_connection, 1, start=number)
            await eventually(lambda: bool(lost) or has(sink, number))  # noqa: B023  (the call ends within the iteration)
        for _ in range(3):
            number += 1
            await publish(own_connection, 1, start=number)
        await eventually(partial(has, sink, number), timeout=RECOVERY)

    assert ids(sink) == list(range(1, number + 1))


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_consumer_deleted(behind: Bench, own_connection: Connection, *, busy: bool) -> None:
    """A deleted consumer is created again from the start of the stream, idle or during a drain."""
    sink = MemorySink()
    js = await jetstream(own_connection)
    async with behind.projecting(sink):
        await publish(own_connection, ROUND)
        await eventually(partial(has, sink, ROUND))
        rest = asyncio.create_task(publish(own_connection, 10 * ROUND, start=ROUND + 1)) if busy else None
        if busy:
            await eventually(partial(has, sink, 2 * ROUND))
        await js.delete_consumer(behind.stream.name, behind.consumer.name)
        await (rest or publish(own_connection, 10 * ROUND, start=ROUND + 1))
        await eventually(partial(has, sink, 11 * ROUND), timeout=RECOVERY)

    assert sorted(map(int, filter(None, ids(sink)))) == list(range(1, 11 * ROUND + 1))


async def test_stream_created_again_under_load(behind: Bench, own_connection: Connection) -> None:
    """After the stream was deleted during a drain and created again, all 50 new events are stored without a restart."""
    sink = MemorySink()
    js = await jetstream(own_connection)
    await publish(own_connection, 20 * ROUND)
    async with behind.projecting(sink) as projector:
        await eventually(partial(has, sink, ROUND))
        await js.delete_stream(behind.stream.name)
        await ensure_stream(own_connection, behind.stream)
        await publish(own_connection, 50, start=1_000_001)
        await eventually(lambda: stored_from(sink, 1_000_001) == 50, timeout=RECOVERY)
        await eventually(lambda: projector.in_flight == 0)

    assert [number for number in ids(sink) if (number or 0) > 1_000_000] == list(range(1_000_001, 1_000_051))


def stored_from(sink: MemorySink, first: int) -> int:
    """Return the number of stored events with ids from *first* up."""
    return sum((event.event_id or 0) >= first for event in sink.events)


async def test_lame_duck(behind: Bench, own_server: NatsServer, own_connection: Connection) -> None:
    """A server in lame duck mode asks its clients to leave; the projector continues with its successor."""
    # This is the shortest duration that the server accepts.
    own_server.config = 'lame_duck_duration: "30s"\nlame_duck_grace_period: "1s"'
    own_server.restart()
    sink = MemorySink()
    async with behind.projecting(sink):
        await publish(own_connection, ROUND)
        await eventually(partial(has, sink, ROUND))
        # The clients are asked to leave over the configured duration; then the server ends.
        os.kill(own_server.pid, signal.SIGUSR2)
        await eventually(lambda: not own_server.running)
        own_server.start()
        await publish(own_connection, ROUND, start=ROUND + 1)
        await eventually(partial(has, sink, 2 * ROUND), timeout=RECOVERY)

    assert ids(sink) == list(range(1, 2 * ROUND + 1))
