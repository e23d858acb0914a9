"""
A worker that emits executions, a few events at a time, until it is told to stop.

The worker emits the same events again until they are accepted, as every worker must.  Its ids come from a clock that
jumps.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from noetl_events import SinkUnavailable
from noetl_events.ids import Snowflake
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.sinks.http import HttpSink
from noetl_events.sinks.nats import NatsSink
from noetl_events.sinks.spool.journal import SpoolFull
from noetl_events.sinks.spool.sink import SpoolSink
from tests.faults.campaign.clock import ShiftedClock
from tests.faults.campaign.events import event_of
from tests.faults.campaign.journal import Journal

if TYPE_CHECKING:
    from noetl_events import EventSink, ExecutorEvent

TASKS = 4
LENGTH = 60
REPLAY_WINDOW = 60.0
PATIENCE = 20.0
SUBJECT = "noetl.events.{execution_id}.{event_type}"


class Job(NamedTuple):
    """
    The target, the worker id, and the rate in events per second.

    For a gateway's URL *spool* is empty, and *password* is its token.
    """

    target: str
    user: str
    password: str
    spool: str
    journal: str
    clock: str
    node: int
    rate: float
    log: str


def work(job: Job) -> None:
    """Run the worker of *job*; the entry point of its process."""
    with Path(job.log).open("a", buffering=1) as log:
        sys.stdout = sys.stderr = log
        asyncio.run(_work(job))


async def _work(job: Job) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    emitter = _Emitter(_sink_of(job), Journal(Path(job.journal)), job)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(TASKS):
            tasks.create_task(emitter.run(stopping))
    await emitter.aclose()


def _sink_of(job: Job) -> EventSink:
    if not job.spool:
        return HttpSink(job.target, token=job.password, timeout=3.0)
    options = ConnectOptions(servers=job.target, user=job.user, password=job.password, connect_timeout=2.0)
    inner = NatsSink(Connection(options), subject=SUBJECT, timeout=3.0, owns_connection=True)
    return SpoolSink(inner, job.spool, replay_window=REPLAY_WINDOW, patience=PATIENCE, owns_inner=True)


class _Emitter:
    """Executions of `LENGTH` events, one after the other."""

    def __init__(self, sink: EventSink, journal: Journal, job: Job) -> None:
        self._sink = sink
        self._journal = journal
        self._new_id = Snowflake(node=job.node, clock=ShiftedClock(Path(job.clock)).milliseconds)
        self._pause = TASKS / job.rate
        self._sizes = random.Random(job.node)

    async def run(self, stopping: asyncio.Event) -> None:
        """Emit until *stopping* is set, and finish the current execution."""
        while not stopping.is_set():
            execution_id = self._new_id()
            done = 0
            while done < LENGTH and not stopping.is_set():
                size = self._sizes.choice((1, 1, 2, 5, 20))
                await self._emit([event_of(self._new_id(), execution_id) for _ in range(size)])
                done += size
                await asyncio.sleep(size * self._pause)

    async def aclose(self) -> None:
        """Forward the spooled events."""
        await self._sink.aclose()

    async def _emit(self, events: list[ExecutorEvent]) -> None:
        self._journal.attempt(events)
        while True:
            try:
                await self._sink.emit_batch(events)
            except (SinkUnavailable, SpoolFull):
                await asyncio.sleep(0.1)
            else:
                return self._journal.acknowledge(events)
