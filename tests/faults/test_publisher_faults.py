"""The publisher and servers that are killed, paused or late: acknowledged events are stored, once, in order."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import nats
import pytest

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.sink import SinkUnavailable
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing.events import make_event, make_events
from tests.faults.load import EMITTERS, Load, change_stream, emit_until_taken, require_exactly_once

if TYPE_CHECKING:
    from pathlib import Path

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.testing.nats_server import NatsServer


@pytest.mark.parametrize("size", [pytest.param(1, id="single events"), pytest.param(200, id="batches")])
@pytest.mark.parametrize("batched", [pytest.param(True, id="fast"), pytest.param(False, id="plain")])
async def test_killed_server_loses_nothing(
    own_server: NatsServer, own_connection: Connection, size: int, *, batched: bool
) -> None:
    """A server killed twice during batches and restarted has every acknowledged event once, in order."""
    await change_stream(own_connection, lambda config: config.evolve(allow_batched=batched))
    sink = NatsSink(own_connection)
    load = Load(sink)
    load.start(size=size)
    for _ in range(2):
        await load.progress(20 * EMITTERS)
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.start)
    await load.progress(20 * EMITTERS)
    await load.stop()
    await sink.aclose()

    await require_exactly_once(own_server.url, load.acknowledged)


async def test_silent_server_is_waited_for(own_server: NatsServer, own_connection: Connection) -> None:
    """A server paused for longer than the silence limit ends with every event stored once."""
    sink = NatsSink(own_connection)
    await sink.emit(make_event(1))
    own_server.pause()
    call = asyncio.ensure_future(sink.emit_batch(make_events(100, start=2)))
    other = asyncio.ensure_future(sink.emit_batch(make_events(100, start=102)))
    done, _ = await asyncio.wait([call], timeout=6)
    assert not done
    own_server.resume()
    async with asyncio.timeout(180):
        await asyncio.gather(call, other)
    await sink.aclose()

    await require_exactly_once(own_server.url, list(range(1, 202)))


async def test_outage_longer_than_the_timeout_is_told(own_server: NatsServer, own_connection: Connection) -> None:
    """An unknown outcome at the timeout is `SinkUnavailable`, says so, and the event can be emitted again."""
    sink = NatsSink(own_connection, timeout=0.5)
    await emit_until_taken(sink, make_events(1))
    await asyncio.to_thread(own_server.kill)
    with pytest.raises(SinkUnavailable, match=r"not sent|unknown whether stored"):
        await sink.emit_batch(make_events(100))
    await asyncio.to_thread(own_server.start)
    await emit_until_taken(sink, make_events(100))
    await sink.aclose()

    await require_exactly_once(own_server.url, list(range(1, 101)))


async def test_server_that_was_never_there_is_told(tmp_path: Path) -> None:
    """Without any server an emit ends with `SinkUnavailable`, which names the server and says that nothing was sent."""
    sink = NatsSink(Connection(ConnectOptions(servers="nats://127.0.0.1:1", connect_timeout=0.3)), timeout=0.5)
    with pytest.raises(SinkUnavailable, match=r"not sent: cannot connect to nats://127\.0\.0\.1:1"):
        await sink.emit(make_event(1))
    await sink.aclose()


async def test_close_outlasts_an_outage(own_server: NatsServer, own_connection: Connection) -> None:
    """Closing during an outage returns once every accepted event is stored."""
    sink = NatsSink(own_connection)
    await sink.emit(make_event(1))
    await asyncio.to_thread(own_server.kill)
    calls = [asyncio.ensure_future(sink.emit(event)) for event in make_events(10, start=2)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(sink.aclose())
    await asyncio.to_thread(own_server.start)
    async with asyncio.timeout(180):
        await closing
        await asyncio.gather(*calls)

    await require_exactly_once(own_server.url, list(range(1, 12)))


async def test_cancelled_emits_disturb_no_other(own_server: NatsServer, own_connection: Connection) -> None:
    """Emits cancelled at any time do not affect the others."""
    sink = NatsSink(own_connection)
    acknowledged: list[int] = []

    async def emit(event: ExecutorEvent) -> None:
        await sink.emit(event)
        acknowledged.append(event.event_id or 0)

    tasks = [asyncio.ensure_future(emit(event)) for event in make_events(2000)]
    for number, task in enumerate(tasks):
        if number % 3 == 0:
            await asyncio.sleep(0)
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await sink.aclose()

    assert all(isinstance(result, asyncio.CancelledError | None) for result in results)
    assert {number for number in range(1, 2001) if (number - 1) % 3} <= set(acknowledged)
    await require_exactly_once(own_server.url, sorted(acknowledged))


async def test_connection_closed_for_good_is_replaced(own_server: NatsServer, own_connection: Connection) -> None:
    """A client closed by the server for good is replaced, and messages in flight are sent again."""
    sink = NatsSink(own_connection)
    await sink.emit(make_event(1))
    client = await own_connection.client()
    call = asyncio.ensure_future(sink.emit_batch(make_events(500)))
    await asyncio.sleep(0)
    with suppress(nats.errors.Error):
        await client.close()
    await call
    await sink.aclose()

    assert await own_connection.client() is not client
    await require_exactly_once(own_server.url, list(range(1, 501)))
