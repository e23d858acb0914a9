"""Several projectors on one exclusive consumer: one is active, in stream order, and the others stand by."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from noetl_events import ExecutorEvent, SinkUnavailable
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.sinks.memory import MemorySink
from noetl_events.testing import eventually, make_event, make_events
from noetl_events.testing.proxy import FaultyProxy
from tests.projector.bench import Bench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

# A starved process must not lose its pin by a pause of its own.
PIN_TTL = 4.0


class Shared:
    """A destination of several projectors: the first copy of each event, in order, with the projector that wrote it."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.writers: list[str] = []

    def sink(self, name: str) -> Named:
        """Return a sink to this destination for the projector *name*."""
        return Named(self, name)


class Named(MemorySink):
    """The sink of one projector, which can be unavailable or hang."""

    def __init__(self, shared: Shared, name: str) -> None:
        super().__init__()
        self._shared = shared
        self._name = name
        self.away = False
        self.refused = 0
        self.go = asyncio.Event()
        self.go.set()

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store new events, unless the sink is unavailable."""
        if self.away:
            self.refused += 1
            raise SinkUnavailable("away")
        await self.go.wait()
        new = [event.event_id or 0 for event in events if event.event_id not in set(self._shared.ids)]
        self._shared.ids += new
        self._shared.writers += [self._name] * len(new)


@pytest.fixture
async def proxied(nats_url: str) -> AsyncIterator[tuple[FaultyProxy, Connection]]:
    """Return a connection for a second projector, and the proxy in its path."""
    parts = urlsplit(nats_url)
    async with (
        FaultyProxy(parts.hostname or "", parts.port or 4222) as proxy,
        Connection(ConnectOptions(servers=proxy.url("nats"))) as connection,
    ):
        yield proxy, connection


def other(bench: Bench, connection: Connection) -> Bench:
    """Return the same bench for a projector with its own connection."""
    return Bench(connection, bench.stream, bench.dead)


def has(shared: Shared, count: int) -> bool:
    """Return true if *count* events are stored."""
    return len(shared.ids) >= count


async def test_one_works_and_hands_over_at_once(bench: Bench, proxied: tuple[FaultyProxy, Connection]) -> None:
    """The standby gets nothing while one is active, and continues behind its last event as soon as it stops."""
    shared = Shared()
    async with other(bench, proxied[1]).projecting(shared.sink("second"), exclusive=True):
        async with bench.projecting(shared.sink("first"), exclusive=True):
            await bench.publish(make_events(200))
            await eventually(lambda: len(shared.ids) == 200)
        worked = set(shared.writers)
        await bench.publish(make_events(200, start=201))
        # This is far below the ten seconds after which the server would give the pin up by itself.
        await eventually(lambda: len(shared.ids) == 400, timeout=180)

    assert len(worked) == 1
    assert shared.ids == list(range(1, 401))


async def test_one_that_vanishes_is_replaced_in_order(bench: Bench, proxied: tuple[FaultyProxy, Connection]) -> None:
    """When the active projector falls silent during a write, the standby repeats that write, in stream order."""
    shared = Shared()
    proxy, connection = proxied
    hanging = shared.sink("vanished")
    async with other(bench, connection).projecting(hanging, exclusive=True, pin_ttl=PIN_TTL) as vanished:
        await bench.publish(make_events(50))
        await eventually(lambda: len(shared.ids) == 50)
        hanging.go.clear()
        await bench.publish(make_events(100, start=51))
        # The size may vary: the request ends with half a pin, and the projector asks for no more while it writes.
        await eventually(lambda: vanished.in_flight)
        proxy.black_hole()
        async with bench.projecting(shared.sink("successor"), exclusive=True, pin_ttl=PIN_TTL):
            numbers = iter(range(151, 10_000))
            async with asyncio.timeout(180):
                # The last message may be on its way to the lost projector; the next one is not.
                while "successor" not in shared.writers:
                    await bench.publish([make_event(next(numbers))])
            hanging.go.set()
            proxy.heal()
            end = next(numbers)
            await bench.publish(make_events(50, start=end))
            await eventually(lambda: len(shared.ids) == end + 49)

    assert shared.ids == list(range(1, end + 50))
    assert set(shared.writers) == {"vanished", "successor"}
    await eventually(lambda: bench.unsettled_is(0))


async def test_pin_is_kept_while_the_destination_is_away(bench: Bench, proxied: tuple[FaultyProxy, Connection]) -> None:
    """An outage of the destination longer than the pin's timeout does not change the active projector."""
    shared = Shared()
    away = shared.sink("first")
    async with bench.projecting(away, exclusive=True, pin_ttl=PIN_TTL) as first:
        await bench.publish(make_events(10))
        await eventually(lambda: len(shared.ids) == 10)
        async with other(bench, proxied[1]).projecting(shared.sink("second"), exclusive=True, pin_ttl=PIN_TTL):
            away.away = True
            await bench.publish(make_events(10, start=11))
            await eventually(lambda: away.refused > 0)
            since = first.progress.last_activity
            await eventually(lambda: first.progress.last_activity > since + 2 * PIN_TTL)
            away.away = False
            await eventually(lambda: len(shared.ids) == 20)

    assert set(shared.writers) == {"first"}
    assert shared.ids == list(range(1, 21))


async def test_reconnection_keeps_the_order(bench: Bench, proxied: tuple[FaultyProxy, Connection]) -> None:
    """The pinned projector stores each event once and in order, through repeated disconnections."""
    shared = Shared()
    proxy, connection = proxied
    async with other(bench, connection).projecting(shared.sink("only"), exclusive=True, ack_wait=1.0):
        for start in range(1, 1_001, 200):
            publishing = asyncio.create_task(bench.publish(make_events(200, start=start)))
            await eventually(partial(has, shared, start + 20))
            proxy.cut()
            await publishing
        await eventually(lambda: len(shared.ids) == 1_000)

    assert shared.ids == list(range(1, 1_001))
    assert await bench.dead_letters() == []
