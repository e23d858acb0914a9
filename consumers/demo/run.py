"""
The demo: a nats-server, two worker processes, a projector, a destination, and a check of what arrived.

The summary compares what the workers know to be stored in the stream with what the destination holds.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from statistics import quantiles
from typing import TYPE_CHECKING, Final

import msgspec

from consumers.dead_letters import DeadLetters
from consumers.demo.destination import Key, stored_keys
from consumers.projector import Projector
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.puller import Puller
from noetl_events.jetstream.topology import (
    DEAD_LETTERS,
    ConsumerDeclaration,
    StreamDeclaration,
    ensure_stream,
    show_stream,
)
from noetl_events.sink import open_sink
from noetl_events.testing.nats_server import NatsServer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.sink import EventSink

_WORKERS: Final = 2
_LOOK_EVERY: Final = 0.2
_STUCK_AFTER: Final = 60.0


class DemoFailed(Exception):
    """The demo could not be carried to its end; the message says where it stopped."""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """How far the demo is."""

    published: int
    projected: int
    rate: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the demo found.

    `published` counts emits that returned, `projected` the rows of theirs in the destination, `duplicates` rows beyond
    the first of an event, `lost` events without a row; the latencies run from the stamp of an event to its commit.
    """

    published: int
    projected: int
    duplicates: int
    lost: int
    dead_letters: int
    seconds: float
    events_per_second: int
    emit_to_row_p50_ms: float
    emit_to_row_p99_ms: float
    destination: str


class TimedSink:
    """Pass on to a sink, and keep how old each event was when it was stored."""

    def __init__(self, inner: EventSink) -> None:
        self.ages_ms: list[float] = []
        self._inner = inner

    async def emit(self, event: ExecutorEvent) -> None:
        """Emit *event*."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Emit *events* and note their ages."""
        await self._inner.emit_batch(events)
        now = datetime.now(UTC)
        self.ages_ms.extend((now - event.created_at).total_seconds() * 1e3 for event in events)

    async def aclose(self) -> None:
        """Close the inner sink."""
        await self._inner.aclose()


async def run_demo(*, folder: Path, to: str, events: int, rate: float, show: Callable[[Moment], None]) -> Summary:
    """
    Run the demo in *folder* and return what was found; *show* is called five times a second.

    Raises:
        DemoFailed: a worker failed, or nothing moved for a minute.

    """
    async with AsyncExitStack() as stack:
        server = stack.enter_context(NatsServer(store_dir=folder / "jetstream"))
        connection = await stack.enter_async_context(Connection(ConnectOptions(servers=server.url)))
        for declared in (StreamDeclaration(), DEAD_LETTERS):
            await ensure_stream(connection, declared)
        sink = TimedSink(open_sink(to))
        stack.push_async_callback(sink.aclose)
        projector = Projector(Puller(connection, ConsumerDeclaration(name="demo")), sink, DeadLetters(connection))
        began = time.monotonic()
        published = await _carry_all(connection, projector, server.url, folder, events, rate, show)
        seconds = time.monotonic() - began
        dead = (await show_stream(connection, DEAD_LETTERS.name)).state.messages
    return _summary(published, await stored_keys(to), dead, seconds, sink.ages_ms, to)


async def _carry_all(
    connection: Connection,
    projector: Projector,
    servers: str,
    folder: Path,
    events: int,
    rate: float,
    show: Callable[[Moment], None],
) -> list[Key]:
    running = asyncio.create_task(projector.run())
    watching = asyncio.create_task(_watch(connection, projector, show))
    try:
        published = await _run_workers(servers, folder, events, rate)
        await _wait_until(lambda: projector.progress.stored + projector.progress.buried >= len(published), running)
        await projector.stop()
        await running
    finally:
        for task in (running, watching):
            task.cancel()
        await asyncio.wait({running, watching})
    return published


async def _run_workers(servers: str, folder: Path, events: int, rate: float) -> list[Key]:
    shares = [events // _WORKERS + (node < events % _WORKERS) for node in range(_WORKERS)]
    files = [folder / f"acknowledged-{node}" for node in range(_WORKERS)]
    async with asyncio.TaskGroup() as group:
        for node, (share, file) in enumerate(zip(shares, files, strict=True)):
            group.create_task(_run_worker(servers, str(share), str(node), str(rate / _WORKERS), str(file)))
    return [key for file in files for key in _read_keys(file)]


async def _run_worker(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "consumers.demo.worker", *arguments)
    try:
        code = await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if code:
        raise DemoFailed(f"a worker process ended with exit code {code}")


def _read_keys(file: Path) -> list[Key]:
    numbers = array("q")
    numbers.frombytes(file.read_bytes())
    return list(zip(numbers[::2], numbers[1::2], strict=True))


async def _wait_until(reached: Callable[[], bool], running: asyncio.Task[None]) -> None:
    deadline = time.monotonic() + _STUCK_AFTER
    while not reached():
        if running.done():
            running.result()
        if time.monotonic() > deadline:
            raise DemoFailed(f"the projector did not catch up within {_STUCK_AFTER:.0f} s")
        await asyncio.wait({running}, timeout=_LOOK_EVERY)


async def _watch(connection: Connection, projector: Projector, show: Callable[[Moment], None]) -> None:
    last, last_time = 0, time.monotonic()
    while True:
        await asyncio.sleep(_LOOK_EVERY)
        published = (await show_stream(connection, StreamDeclaration().name)).state.messages
        projected, now = projector.progress.stored, time.monotonic()
        show(Moment(published=published, projected=projected, rate=(projected - last) / (now - last_time)))
        last, last_time = projected, now


def _summary(
    published: list[Key], rows: list[Key], dead_letters: int, seconds: float, ages_ms: list[float], to: str
) -> Summary:
    expected = set(published)
    ours = [key for key in rows if key in expected]
    cuts = quantiles(ages_ms, n=100) if len(ages_ms) > 1 else [0.0] * 99
    return Summary(
        published=len(published),
        projected=len(set(ours)),
        duplicates=len(ours) - len(set(ours)),
        lost=len(expected) - len(set(ours)),
        dead_letters=dead_letters,
        seconds=round(seconds, 2),
        events_per_second=round(len(published) / seconds),
        emit_to_row_p50_ms=round(cuts[49], 1),
        emit_to_row_p99_ms=round(cuts[98], 1),
        destination=to,
    )
