"""
A program that emits from several copies of one worker: `many_workers.py URL SUBJECT forked|threaded COPIES EVENTS`.

Each copy emits so many events of one execution under the same worker id, all at once; when it ends with 0 every emit of
every copy has returned.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading

from noetl_events import EventEmitter, Snowflake
from noetl_events.ids import process_ids
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.sinks.nats import NatsSink


async def emit(url: str, subject: str, events: int) -> None:
    """Emit so many *events*, each by an `emit` of its own."""
    async with Connection(ConnectOptions(servers=url)) as connection:
        sink = NatsSink(connection, subject=subject)
        emitter = EventEmitter(543942402780693277, sink, worker_id="worker-7")
        await asyncio.gather(*(emitter.emit("step.exit", "fetch", "COMPLETED", {"n": n}) for n in range(events)))
        await sink.aclose()


def forked(url: str, subject: str, copies: int, events: int) -> bool:
    """Emit from so many forked children, whose parent has made ids already, as a preloading server does."""
    ids: Snowflake = process_ids()
    ids()
    children = []
    for _ in range(copies):
        if not (child := os.fork()):
            code = 1
            try:
                asyncio.run(emit(url, subject, events))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    return all(os.waitpid(child, 0)[1] == 0 for child in children)


def threaded(url: str, subject: str, copies: int, events: int) -> bool:
    """Emit from so many threads, each with a loop and a connection of its own."""
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
    run = {"forked": forked, "threaded": threaded}[sys.argv[3]]
    sys.exit(0 if run(sys.argv[1], sys.argv[2], int(sys.argv[4]), int(sys.argv[5])) else 1)
