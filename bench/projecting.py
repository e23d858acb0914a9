"""The projector as the daemon runs it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from bench.streams import CONSUMER, acknowledged
from consumers.dead_letters import DeadLetters
from consumers.projector.crash_records import CrashRecords
from consumers.projector.projector import Projector
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consume.puller import Puller
from noetl_events.jetstream.options import ConnectOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from noetl_events import ExecutorEvent
    from noetl_events.sink import EventSink


class CountedSink:
    """Pass events to *inner*; `complete` is set once *events* are stored."""

    def __init__(self, inner: EventSink, events: int) -> None:
        self.complete = asyncio.Event()
        self._inner = inner
        self._left = events

    async def emit(self, event: ExecutorEvent) -> None:
        """Emit *event*."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Emit *events*."""
        await self._inner.emit_batch(events)
        self._left -= len(events)
        if self._left <= 0:
            self.complete.set()

    async def aclose(self) -> None:
        """Close the inner sink."""
        await self._inner.aclose()


def make_projector(connection: Connection, sink: EventSink) -> Projector:
    """Return a projector with the daemon's defaults, from the benchmarks' consumer into *sink*."""
    return Projector(Puller(connection, CONSUMER), sink, DeadLetters(connection), CrashRecords(connection))


@asynccontextmanager
async def projecting(url: str, sink: EventSink, events: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Yield a function that runs a projector until *events* are stored in *sink* and acknowledged; stop it on exit."""
    counted = CountedSink(sink, events)
    async with Connection(ConnectOptions(servers=url)) as connection, asyncio.TaskGroup() as group:
        projector = make_projector(connection, counted)

        async def carry() -> None:
            group.create_task(projector.run())
            await counted.complete.wait()
            await acknowledged(url, events)

        yield carry
        await projector.stop()
