"""
The demo: a nats-server, two worker processes, a projector, a destination, and a check of what arrived.

The summary compares what the workers know to be stored in the stream with what the destination holds.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from statistics import quantiles
from typing import Final

import msgspec

from consumers.dead_letters import DeadLetters
from consumers.demo.timed_sink import TimedSink
from consumers.projector import Projector
from consumers.suspects import Trials
from consumers.verification.readback import Key, stored_keys
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.options import ConnectOptions, redacted
from noetl_events.jetstream.puller import Puller
from noetl_events.jetstream.topology import (
    DEAD_LETTERS,
    TRIALS,
    ConsumerDeclaration,
    StreamDeclaration,
    ensure_stream,
    show_stream,
)
from noetl_events.sink import open_sink
from noetl_events.testing.nats_server import NatsServer

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

    `published` counts emits that returned, `projected` those with a row in the destination, `duplicates` rows beyond
    the first of an event, `lost` events without a row.  The latencies run from the stamp of an event to its commit.
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


class Demo(msgspec.Struct, frozen=True, kw_only=True):
    """
    What to run.

    Args:
        folder: for the server's store and the workers' notes.
        to: URL of the destination.
        events: to emit.
        rate: events a second; 0 is as fast as they are stored.
        show: called five times a second.

    """

    folder: Path
    to: str
    events: int
    rate: float
    show: Callable[[Moment], None]

    async def run(self) -> Summary:
        """
        Carry all events and return what was found at the destination.

        Raises:
            DemoFailed: a worker failed, or nothing moved for a minute.

        """
        async with AsyncExitStack() as stack:
            server = stack.enter_context(NatsServer(store_dir=self.folder / "jetstream"))
            connection = await stack.enter_async_context(Connection(ConnectOptions(servers=server.url)))
            for declared in (StreamDeclaration(), DEAD_LETTERS, TRIALS):
                await ensure_stream(connection, declared)
            sink = TimedSink(open_sink(self.to))
            stack.push_async_callback(sink.aclose)
            consumer = ConsumerDeclaration(name="demo")
            projector = Projector(Puller(connection, consumer), sink, DeadLetters(connection), Trials(connection))
            began = time.monotonic()
            published = await self._carry(connection, projector, server.url)
            seconds = time.monotonic() - began
            dead = (await show_stream(connection, DEAD_LETTERS.name)).state.messages
        rows = await stored_keys(self.to)
        return _summary(published, rows, sink.ages_ms, dead_letters=dead, seconds=seconds, destination=self.to)

    async def _carry(self, connection: Connection, projector: Projector, servers: str) -> list[Key]:
        running = asyncio.create_task(projector.run())
        watching = asyncio.create_task(self._watch(connection, projector))
        try:
            published = await self._run_workers(servers)
            await _wait_until(lambda: projector.progress.stored + projector.progress.buried >= len(published), running)
            await projector.stop()
            await running
        finally:
            for task in (running, watching):
                task.cancel()
            await asyncio.wait({running, watching})
        return published

    async def _run_workers(self, servers: str) -> list[Key]:
        notes = [self.folder / f"acknowledged-{node}" for node in range(_WORKERS)]
        async with asyncio.TaskGroup() as group:
            for node, note in enumerate(notes):
                share = self.events // _WORKERS + (node < self.events % _WORKERS)
                arguments = (servers, str(share), str(node), str(self.rate / _WORKERS), str(note))
                group.create_task(_run_worker(arguments))
        return [key for note in notes for key in _read_keys(note)]

    async def _watch(self, connection: Connection, projector: Projector) -> None:
        last, last_time = 0, time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            published = (await show_stream(connection, StreamDeclaration().name)).state.messages
            projected, now = projector.progress.stored, time.monotonic()
            rate = (projected - last) / (now - last_time)
            self.show(Moment(published=published, projected=projected, rate=rate))
            last, last_time = projected, now


async def _run_worker(arguments: tuple[str, ...]) -> None:
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


def _read_keys(note: Path) -> list[Key]:
    numbers = array("q")
    numbers.frombytes(note.read_bytes())
    return list(zip(numbers[::2], numbers[1::2], strict=True))


async def _wait_until(reached: Callable[[], bool], running: asyncio.Task[None]) -> None:
    deadline = time.monotonic() + _STUCK_AFTER
    while not reached():
        if running.done():
            running.result()
        if time.monotonic() > deadline:
            raise DemoFailed(f"the projector did not catch up within {_STUCK_AFTER:.0f} s")
        await asyncio.wait({running}, timeout=_LOOK_EVERY)


def _summary(
    published: list[Key],
    rows: list[Key],
    ages_ms: list[float],
    *,
    dead_letters: int,
    seconds: float,
    destination: str,
) -> Summary:
    expected = set(published)
    ours = [key for key in rows if key in expected]
    cuts = quantiles(ages_ms, n=100) if len(ages_ms) > 1 else ages_ms * 99
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
        destination=redacted(destination),
    )
