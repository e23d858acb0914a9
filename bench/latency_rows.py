"""
The time from `emit` until the row can be read, at a steady rate.

    python -m bench.latency_rows [--rate 1000] [--seconds 10] [--rounds 3]

Events of 400 bytes go through `NatsSink`, a stream, `noetl-events project` as a process, and Postgres with its
defaults; then through another Postgres that does not wait for its disk (fsync off), which shows the share of this
machine's disk.  The clock of an event runs from when it was due to be emitted, so that a stall counts for all events it
delayed, until a reader with a separate connection has seen the row.  The reader polls a millisecond after each answer;
this delay is part of the numbers.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Final

import asyncpg
import structlog
from msgspec import structs

from bench.envelopes import make_envelopes
from bench.tables import make_target, settings
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import DEAD_LETTERS, StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing.nats_server import NatsServer
from noetl_events.testing.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from noetl_events import ExecutorEvent

P50_BAR: Final = 10.0
P99_BAR: Final = 50.0
"""The promised milliseconds."""

_POLL: Final = 0.001
_PATIENCE: Final = 30.0
_WARM_UP: Final = 500


@contextmanager
def projecting(url: str, dsn: str) -> Iterator[None]:
    """
    Run the daemon.

    Raises:
        SystemExit: the daemon did not stop with exit code 0.

    """
    command = [sys.executable, "-m", "consumers", "project", "--to", dsn, "--nats", url]
    with tempfile.TemporaryFile("w+") as log:
        daemon = subprocess.Popen(command, stderr=log)
        try:
            yield
        finally:
            daemon.terminate()
            if code := daemon.wait(_PATIENCE):
                log.seek(0)
                raise SystemExit(f"the daemon ended with {code}:\n{log.read()[-2_000:]}")


class Moments:
    """The times at which each event was due, stored in the stream, and first seen as a row."""

    def __init__(self) -> None:
        self.due: dict[int, float] = {}
        self.stored: dict[int, float] = {}
        self.seen: dict[int, float] = {}

    def took(self, moments: dict[int, float]) -> list[float]:
        """Return the milliseconds from when each event was due until its time in *moments*."""
        return [(moment - self.due[event_id]) * 1e3 for event_id, moment in moments.items()]


async def emit_regularly(sink: NatsSink, events: list[ExecutorEvent], rate: float, moments: Moments) -> None:
    """Emit *rate* events a second and return when all are in the stream."""
    began = time.perf_counter()

    async def emit(event: ExecutorEvent) -> None:
        await sink.emit(event)
        moments.stored[event.event_id or 0] = time.perf_counter()

    async with asyncio.TaskGroup() as group:
        for number, event in enumerate(events):
            due = moments.due[event.event_id or 0] = began + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            group.create_task(emit(event))


async def watch(connection: asyncpg.Connection, events: list[ExecutorEvent], moments: Moments) -> None:
    """
    Record when each row is seen first, and return when all are.

    Raises:
        TimeoutError: rows are missing long after the last event.

    """
    # A growing table has old statistics: without this setting the query may read all of it, repeatedly.
    await connection.execute("SET enable_seqscan = off")
    query = await connection.prepare("SELECT event_id FROM noetl.event WHERE execution_id = $1 AND event_id >= $2")
    waiting = [event.event_id or 0 for event in reversed(events)]
    async with asyncio.timeout(_PATIENCE + len(events) / 100):
        while waiting:
            rows = await query.fetch(events[0].execution_id, waiting[-1])
            now = time.perf_counter()
            for row in rows:
                moments.seen.setdefault(row[0], now)
            while waiting and waiting[-1] in moments.seen:
                waiting.pop()
            await asyncio.sleep(_POLL)


async def measure(sink: NatsSink, dsn: str, events: list[ExecutorEvent], rate: float) -> Moments:
    """Emit *events* at a steady rate, and return their times."""
    moments = Moments()
    connection = await asyncpg.connect(dsn)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(watch(connection, events, moments))
            group.create_task(emit_regularly(sink, events, rate, moments))
    finally:
        await connection.close()
    return moments


def print_round(moments: Moments) -> tuple[float, float]:
    """Print the numbers of a round, and return median and 99th percentile of the time until the row was seen."""
    figures = []
    for name, ends in (("in the stream", moments.stored), ("row seen", moments.seen)):
        took = moments.took(ends)
        figures = [median(took), quantiles(took, n=100)[98]]
        print(f"  {name:14} p50 {figures[0]:8.2f} ms   p99 {figures[1]:8.2f} ms   the slowest {max(took):8.2f} ms")
    return figures[0], figures[1]


async def run(url: str, dsn: str, arguments: argparse.Namespace) -> None:
    """Print the numbers of each round, and their medians."""
    await make_target(dsn, "plain")
    print(f"{arguments.rate:,.0f} events a second for {arguments.seconds:.0f} s; Postgres: {await settings(dsn)}\n")
    size = int(arguments.rate * arguments.seconds)
    events = make_envelopes(_WARM_UP + size * arguments.rounds)
    events = [structs.replace(event, execution_id=events[0].execution_id) for event in events]
    rounds = []
    async with Connection(ConnectOptions(servers=url)) as connection:
        for stream in (StreamDeclaration(), DEAD_LETTERS):
            await ensure_stream(connection, stream)
        sink = NatsSink(connection)

        async def measure_some(some: list[ExecutorEvent]) -> Moments:
            return await measure(sink, dsn, some, arguments.rate)

        with projecting(url, dsn):
            await measure_some(events[:_WARM_UP])
            for start in range(_WARM_UP, len(events), size):
                moments = await measure_some(events[start : start + size])
                rounds.append(print_round(moments))
        await sink.aclose()
    p50, p99 = (median(figures) for figures in zip(*rounds, strict=True))
    print(f"\n  medians: p50 {p50:.2f} ms (bar {P50_BAR:.0f}), p99 {p99:.2f} ms (bar {P99_BAR:.0f})\n")


def main() -> None:
    """Read the arguments, start the servers, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=1_000.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    for fsync in (True, False):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = stack.enter_context(NatsServer(store_dir=folder / "nats"))
            database = stack.enter_context(PostgresServer(data_dir=folder / "postgres", fsync=fsync))
            asyncio.run(run(server.url, database.url, arguments))


if __name__ == "__main__":
    main()
