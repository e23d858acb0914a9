"""
A worker that emits into a spool until it is killed.

Run as `python -m tests.faults.spooling_worker URL LANE NOTE`.  Each event with a completed emit is a line of NOTE.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from noetl_events import EventSink, open_sink
from noetl_events.testing import make_event

LANE = 1_000_000


async def emit(sink: EventSink, lane: int, task: int, note: Path) -> None:
    """Emit events one after the other, and record each."""
    with note.open("a") as notes:
        for event_id in range(lane * LANE + task * LANE // 10, (lane + 1) * LANE):
            await sink.emit(make_event(event_id, execution_id=lane * 10 + task))
            notes.write(f"{event_id}\n")
            notes.flush()


async def main(url: str, lane: int, note: Path) -> None:
    """Emit from a few tasks at a time."""
    sink = open_sink(url)
    await asyncio.gather(*(emit(sink, lane, task, note) for task in range(5)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
