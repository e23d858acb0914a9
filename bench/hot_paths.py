"""
Run one of the three hot paths repeatedly: the program that `bench.profiles` samples.

    python -m bench.hot_paths publish|drain|pipeline [--seconds 10]

Prints a line when it is warm, and then, as JSON, the number of events, the seconds, and the CPU seconds of each
process.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import structlog

from bench.carriers import projector_into_postgres
from bench.drains import projector_into_noop
from bench.envelopes import make_envelopes
from bench.publishers import emit_all
from bench.rounds import seconds_of
from bench.streams import STREAM, delete_consumers, fill_stream
from bench.tables import clear, make_target
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing.nats_server import NatsServer
from noetl_events.testing.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.tables import Target
    from noetl_events import ExecutorEvent

EVENTS = 100_000
READY = "ready\n"
_TICKS = os.sysconf("SC_CLK_TCK")


class Servers(NamedTuple):
    """The servers at both ends of the path."""

    nats: NatsServer
    postgres: PostgresServer
    target: Target


async def publish(servers: Servers, events: list[ExecutorEvent]) -> float:
    """Publish the events to a new stream."""
    async with Connection(ConnectOptions(servers=servers.nats.url)) as connection:
        await ensure_stream(connection, STREAM)
        await (await jetstream(connection)).delete_stream(STREAM.name)
        await ensure_stream(connection, STREAM)
    async with emit_all(servers.nats.url, events) as emit:
        return await seconds_of(emit)


async def drain(servers: Servers, events: list[ExecutorEvent]) -> float:
    """Read the stream into a sink that drops every event."""
    async with projector_into_noop(servers.nats.url, len(events)) as carry:
        took = await seconds_of(carry)
    await delete_consumers(servers.nats.url)
    return took


async def pipeline(servers: Servers, events: list[ExecutorEvent]) -> float:
    """Read the stream into an empty table."""
    await clear(servers.target.dsn)
    async with projector_into_postgres(servers.nats.url, servers.target, len(events)) as carry:
        took = await seconds_of(carry)
    await delete_consumers(servers.nats.url)
    return took


PATHS: dict[str, Callable[[Servers, list[ExecutorEvent]], Awaitable[float]]] = {
    "publish": publish,
    "drain": drain,
    "pipeline": pipeline,
}


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and its children; Linux only."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        # A child has ended meanwhile: its parent has its seconds.
        return 0.0
    # These are user, system, and both for the children that have ended: proc_pid_stat(5).
    return sum(map(int, fields[11:15])) / _TICKS + sum(cpu_seconds(int(child)) for child in children)


async def run(path: str, servers: Servers, seconds: float) -> None:
    """Repeat the path until the time is over, and print the counts."""
    events = make_envelopes(EVENTS)
    await fill_stream(servers.nats.url, events)
    walk, pids = PATHS[path], {"nats-server": servers.nats.pid, "Postgres": servers.postgres.pid}
    await walk(servers, events)
    print(READY, end="", flush=True)
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    took, ours, walks = 0.0, time.process_time(), 0
    while took < seconds:
        took += await walk(servers, events)
        walks += 1
    cpu = {"we": time.process_time() - ours} | {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
    print(msgspec.json.encode({"events": walks * EVENTS, "seconds": took, "cpu": cpu}).decode())


def main() -> None:
    """Read the arguments, start the servers, run the path."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", choices=PATHS)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nats = stack.enter_context(NatsServer(store_dir=folder / "nats"))
        postgres = stack.enter_context(PostgresServer(data_dir=folder / "postgres"))
        target = asyncio.run(make_target(postgres.url, "plain"))
        asyncio.run(run(arguments.path, Servers(nats, postgres, target), arguments.seconds))


if __name__ == "__main__":
    main()
