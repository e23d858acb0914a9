"""
A program that emits from copies of one worker: `many_workers.py URL SUBJECT forked|threaded|colliding COPIES EVENTS`.

Each copy emits EVENTS events of one execution under the same worker id, a hundred at a time.  Exit code 0 means
that each emit of every copy has returned.  `colliding` copies make ids with one node and one sequence, on a clock of
ten ticks a second.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

from noetl_events import EventEmitter, Snowflake
from noetl_events.ids import process_ids
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.sinks.nats import NatsSink

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


async def emit(url: str, subject: str, events: int, *, step: str = "fetch", ids: Snowflake | None = None) -> None:
    """Emit *events* events, each with an `emit` call of its own, from a hundred tasks at a time."""
    async with Connection(ConnectOptions(servers=url)) as connection:
        sink = NatsSink(connection, subject=subject)
        emitter = EventEmitter(543942402780693277, sink, worker_id="worker-7", new_id=ids)
        for first in range(0, events, 100):
            numbers = range(first, min(first + 100, events))
            await asyncio.gather(*(emitter.emit("step.exit", step, "COMPLETED", {"n": n}) for n in numbers))
        await sink.aclose()


def forked(url: str, subject: str, copies: int, events: int) -> bool:
    """Emit from forked children of a parent that has made ids already, as a preloading server does."""
    ids: Snowflake = process_ids()
    ids()
    return _in_children(copies, lambda _: emit(url, subject, events))


def colliding(url: str, subject: str, copies: int, events: int) -> bool:
    """Emit from forked children with equal ids, each with a step of its own."""
    return _in_children(copies, lambda copy: emit(url, subject, events, step=f"step {copy}", ids=_slow_ids()))


def _slow_ids() -> Snowflake:
    return Snowflake(node=7, first_sequence=0, clock=lambda: time.time_ns() // 100_000_000 * 100)


def _in_children(copies: int, work: Callable[[int], Coroutine[None, None, None]]) -> bool:
    children = []
    for copy in range(copies):
        if not (child := os.fork()):
            code = 1
            try:
                asyncio.run(work(copy))
                code = 0
            except Exception:  # noqa: BLE001  (the child reports only its exit code)
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    return all(os.waitpid(child, 0)[1] == 0 for child in children)


def threaded(url: str, subject: str, copies: int, events: int) -> bool:
    """Emit from threads, each with its own loop and connection."""
    done: list[None] = []
    threads = [
        threading.Thread(target=lambda: done.append(asyncio.run(emit(url, subject, events)))) for _ in range(copies)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(done) == copies


if __name__ == "__main__":
    run = {"forked": forked, "threaded": threaded, "colliding": colliding}[sys.argv[3]]
    sys.exit(0 if run(sys.argv[1], sys.argv[2], int(sys.argv[4]), int(sys.argv[5])) else 1)
