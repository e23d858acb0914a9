"""
The demo: a nats-server, two worker processes, a projector, a destination, and a check of the rows.

The summary compares the events that the stream confirmed to the workers with the rows of the destination.

On a terminal four figures and a curve are redrawn five times a second.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Final

import msgspec
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from consumers.dead_letters import DeadLetters
from consumers.projector.crash_records import CrashRecords
from consumers.projector.projector import Projector
from consumers.verification.readback import Key, stored_keys
from noetl_events.jetstream.connect.servers import redacted
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consume.puller import Puller
from noetl_events.jetstream.declarations import DEAD_LETTERS, TRIALS, ConsumerDeclaration, StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream, show_stream
from noetl_events.sink import open_sink
from noetl_events.testing.nats_server import NatsServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.sink import EventSink


class TimedSink:
    """A sink that passes events to *inner*; `ages_ms` has the age of each stored event."""

    def __init__(self, inner: EventSink) -> None:
        self.ages_ms: list[float] = []
        self._inner = inner

    async def emit(self, event: ExecutorEvent) -> None:
        """Emit *event*."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Emit *events* and record their ages."""
        await self._inner.emit_batch(events)
        now = datetime.now(UTC)
        self.ages_ms.extend((now - event.created_at).total_seconds() * 1e3 for event in events)

    async def aclose(self) -> None:
        """Close the inner sink."""
        await self._inner.aclose()


_WORKERS: Final = 2
_POLL_INTERVAL: Final = 0.2
_STUCK_AFTER: Final = 60.0


class DemoFailed(Exception):
    """The demo failed; the message names the step."""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of the demo."""

    published: int
    projected: int
    rate: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """
    The result of the demo.

    `published` counts emits that returned, `projected` those with a row in the destination, `duplicates` rows beyond
    the first of an event, `lost` events without a row.  The latencies run from the timestamp of an event to its commit.
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
    The demo's options.

    Args:
        folder: folder for the server's store and the workers' files.
        to: URL of the destination.
        events: number of events to emit.
        rate: events per second; 0 for no limit.
        show: callback for the progress, called five times a second.

    """

    folder: Path
    to: str
    events: int
    rate: float
    show: Callable[[Moment], None]

    async def run(self) -> Summary:
        """
        Run the demo and return the result of the check.

        Raises:
            DemoFailed: a worker failed, or nothing progressed for a minute.

        """
        async with AsyncExitStack() as stack:
            server = stack.enter_context(NatsServer(store_dir=self.folder / "jetstream"))
            connection = await stack.enter_async_context(Connection(ConnectOptions(servers=server.url)))
            for declared in (StreamDeclaration(), DEAD_LETTERS, TRIALS):
                await ensure_stream(connection, declared)
            sink = TimedSink(open_sink(self.to))
            stack.push_async_callback(sink.aclose)
            consumer = ConsumerDeclaration(name="demo")
            projector = Projector(Puller(connection, consumer), sink, DeadLetters(connection), CrashRecords(connection))
            began = time.monotonic()
            published = await self._project(connection, projector, server.url)
            seconds = time.monotonic() - began
            dead = (await show_stream(connection, DEAD_LETTERS.name)).state.messages
        rows = await stored_keys(self.to)
        return _summary(published, rows, sink.ages_ms, dead_letters=dead, seconds=seconds, destination=self.to)

    async def _project(self, connection: Connection, projector: Projector, servers: str) -> list[Key]:
        running = asyncio.create_task(projector.run())
        watching = asyncio.create_task(self._show_progress(connection, projector))
        try:
            published = await self._run_workers(servers)
            await _wait_until(
                lambda: projector.progress.stored + projector.progress.dead_letters >= len(published), running
            )
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

    async def _show_progress(self, connection: Connection, projector: Projector) -> None:
        last, last_time = 0, time.monotonic()
        while True:
            await asyncio.sleep(_POLL_INTERVAL)
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
        await asyncio.wait({running}, timeout=_POLL_INTERVAL)


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


_BARS: Final = " ▁▂▃▄▅▆▇█"
_WIDTH: Final = 48


@contextmanager
def live_view(events: int) -> Iterator[Callable[[Moment], None]]:
    """Yield a function that draws the progress on standard error; on a non-terminal it draws nothing."""
    console = Console(stderr=True)
    rates: deque[float] = deque(maxlen=_WIDTH)
    with Live(console=console, transient=True, auto_refresh=False) as live:

        def show(moment: Moment) -> None:
            rates.append(moment.rate)
            if console.is_terminal:
                live.update(picture(moment, events, rates), refresh=True)

        yield show


def picture(moment: Moment, events: int, rates: deque[float]) -> Table:
    """Return a table of *moment* and of the *rates* up to it."""
    table = Table.grid(padding=(0, 2))
    table.add_row("published", f"{moment.published:>10,}", ProgressBar(events, moment.published, width=_WIDTH))
    table.add_row("projected", f"{moment.projected:>10,}", ProgressBar(events, moment.projected, width=_WIDTH))
    table.add_row("lag", f"{max(moment.published - moment.projected, 0):>10,}", Text("events", style="dim"))
    table.add_row("rate", f"{moment.rate:>10,.0f}", Text(_curve(rates), style="cyan"))
    return table


def _curve(rates: deque[float]) -> str:
    top = max(rates, default=0.0) or 1.0
    return "".join(_BARS[round(rate / top * (len(_BARS) - 1))] for rate in rates)
