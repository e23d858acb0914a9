"""
A worker that posts events to a gateway until each is accepted.

Run as `python -m tests.faults.posting_worker URL EVENTS NOTE`.  Each accepted event is a line of NOTE.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from noetl_events import EventSink, SinkUnavailable, open_sink
from noetl_events.testing import make_event

if TYPE_CHECKING:
    from noetl_events import ExecutorEvent

EXECUTIONS = 20
# Some calls become one request, some several, some a single post.
SIZES = (1, 7, 40, 300)


def events_of(execution: int, events: int) -> list[ExecutorEvent]:
    """Return the part of *count* events that belongs to *execution*."""
    return [
        make_event(event_id, execution_id=execution)
        for event_id in range(1, events + 1)
        if event_id % EXECUTIONS == execution
    ]


async def post(sink: EventSink, events: list[ExecutorEvent], notes: TextIO) -> None:
    """Emit *events* in order, a few at a time, and record the accepted ones."""
    done = 0
    for turn in count():
        if not (some := events[done : done + SIZES[turn % len(SIZES)]]):
            return
        await until_taken(sink, some)
        done += len(some)
        notes.writelines(f"{event.event_id}\n" for event in some)
        notes.flush()


async def until_taken(sink: EventSink, events: list[ExecutorEvent]) -> None:
    """Emit the same events until the sink accepts them."""
    while True:
        try:
            return await sink.emit_batch(events)
        except SinkUnavailable:
            await asyncio.sleep(0.05)


async def main(url: str, events: int, note: Path) -> None:
    """Post from a task for each execution."""
    sink = open_sink(url)
    with note.open("a") as notes:
        await asyncio.gather(*(post(sink, events_of(number, events), notes) for number in range(EXECUTIONS)))
    await sink.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
