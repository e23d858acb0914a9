"""From the journal to the sink behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noetl_events import ExecutorEvent, SinkUnavailable
from noetl_events.backoff import Backoff
from noetl_events.sinks.memory import MemorySink
from noetl_events.sinks.spool import SpoolSink
from noetl_events.testing import make_events

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


async def test_what_gets_through_is_not_begun_again(tmp_path: Path) -> None:
    """A sink too slow for a whole batch within its timeout is given less at a time, and no part of it twice."""

    class Slow(MemorySink):
        def __init__(self) -> None:
            super().__init__()
            self.received: list[int | None] = []

        async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
            if len(events) > 60:
                raise SinkUnavailable("only some of them in time")
            self.received += [event.event_id for event in events]
            await super().emit_batch(events)

    slow = Slow()
    sink = SpoolSink(slow, tmp_path / "spool", backoff=Backoff(initial=0.01, maximum=0.02))
    await sink.emit_batch(make_events(300))
    await sink.drained()

    assert slow.received == list(range(1, 301))
    await sink.aclose()
