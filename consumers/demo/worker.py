"""
A worker process of the demo: many concurrent executions, each emitting one event after the other.

Run as `python -m consumers.demo.worker SERVERS EVENTS NODE RATE NOTE`.  The file NOTE receives the (execution_id,
event_id) of every event with a completed emit, as pairs of 64-bit integers: the destination must hold these in the end.

An execution is a playbook of a few steps, each a command that a worker claims and runs, as NoETL reports it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from noetl_events.emitter import EventEmitter
from noetl_events.event_types import EventStatus, EventType
from noetl_events.ids import Snowflake
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.sink import EventSink
from noetl_events.sinks.nats import NatsSink

if TYPE_CHECKING:
    from collections.abc import Iterator

_STEPS: Final = ("start", "fetch_posts", "transform", "load_postgres", "end")
_PLAYBOOK: Final = "examples/http_to_postgres"
_ROW: Final = {"id": 17, "title": "sunt aut facere", "body": "quia et suscipit recusandae consequuntur expedita et cum"}


class Happening(NamedTuple):
    """The arguments of a single `EventEmitter.emit`."""

    event_type: str
    step: str
    status: str
    context: dict[str, Any]


def execution() -> Iterator[Happening]:
    """Yield the events of an execution, in order."""
    yield Happening(EventType.PLAYBOOK_INITIALIZED, _PLAYBOOK, EventStatus.STARTED, {"workload": {"pages": 2}})
    yield Happening(EventType.WORKFLOW_INITIALIZED, "workflow", EventStatus.STARTED, {"steps": list(_STEPS)})
    for number, step in enumerate(_STEPS):
        yield from _command(number, step)
    yield Happening(EventType.WORKFLOW_COMPLETED, "workflow", EventStatus.COMPLETED, {})
    yield Happening(EventType.PLAYBOOK_COMPLETED, _PLAYBOOK, EventStatus.COMPLETED, {"rows": 100})


def _command(number: int, step: str) -> Iterator[Happening]:
    command = {"command_id": number, "tool": {"kind": "http", "timeout": 30.0}}
    yield Happening(EventType.COMMAND_ISSUED, step, EventStatus.PENDING, command)
    yield Happening(EventType.COMMAND_CLAIMED, step, EventStatus.RUNNING, command)
    yield Happening(EventType.COMMAND_STARTED, step, EventStatus.RUNNING, command)
    yield Happening(EventType.STEP_ENTER, step, EventStatus.STARTED, {"input": {"url": "https://example.org/posts"}})
    yield Happening(EventType.CALL_DONE, step, EventStatus.COMPLETED, {"result": {"rows": [_ROW, _ROW]}})
    yield Happening(EventType.STEP_EXIT, step, EventStatus.COMPLETED, {"processing_ms": 12.5 + number})
    yield Happening(EventType.COMMAND_COMPLETED, step, EventStatus.COMPLETED, {"processing_ms": 14.25 + number})


_EXECUTIONS_AT_A_TIME: Final = 100


class Worker:
    """
    Emit *events* events at *rate* per second, or without a limit for a rate of 0.

    `acknowledged` lists the events that the stream has confirmed.
    """

    def __init__(self, sink: EventSink, *, events: int, node: int, rate: float) -> None:
        self.acknowledged = array("q")
        self._sink = sink
        self._left = events
        self._new_id = Snowflake(node=node)
        self._worker_id = f"demo-worker-{node}"
        self._interval = 1 / rate if rate else 0.0
        self._slot = time.monotonic()

    async def run(self) -> None:
        """Return when every event is stored."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_EXECUTIONS_AT_A_TIME):
                group.create_task(self._run_executions())

    async def _run_executions(self) -> None:
        while self._left > 0:
            emitter = EventEmitter(self._new_id(), self._sink, worker_id=self._worker_id, new_id=self._new_id)
            for happening in execution():
                if self._left <= 0:
                    return
                self._left -= 1
                await self._wait_for_slot()
                event = await emitter.emit(*happening)
                self.acknowledged.extend((event.execution_id, event.event_id or 0))

    async def _wait_for_slot(self) -> None:
        self._slot = max(self._slot + self._interval, time.monotonic() - 1)
        if (delay := self._slot - time.monotonic()) > 0:
            await asyncio.sleep(delay)


async def _main(servers: str, events: str, *, node: str, rate: str, note: str) -> None:
    async with Connection(ConnectOptions(servers=servers, name=f"demo-worker-{node}")) as connection:
        sink = NatsSink(connection)
        worker = Worker(sink, events=int(events), node=int(node), rate=float(rate))
        try:
            await worker.run()
        finally:
            await sink.aclose()
            await asyncio.to_thread(Path(note).write_bytes, worker.acknowledged.tobytes())


if __name__ == "__main__":
    _servers, _events, _node, _rate, _note = sys.argv[1:]
    asyncio.run(_main(_servers, _events, node=_node, rate=_rate, note=_note))
