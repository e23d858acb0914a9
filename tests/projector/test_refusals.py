"""A batch that is refused: when it is the events, and when it is the destination."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from noetl_events import EventsRejected, ExecutorEvent
from noetl_events.sinks.memory import MemorySink
from noetl_events.testing import eventually, make_events
from tests.projector.bench import Bench, ids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Refusing(MemorySink):
    """A sink that takes nothing until it is mended, for what *reason* says of each id."""

    def __init__(self, reason: Callable[[int], str]) -> None:
        super().__init__()
        self._reason = reason
        self.mended = False

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Refuse all, or store all."""
        if not self.mended:
            raise EventsRejected({event.event_id or 0: self._reason(event.event_id or 0) for event in events})
        await super().emit_batch(events)


async def test_refused_alike_is_held(bench: Bench) -> None:
    """Ten events refused for one and the same reason are held and not buried, and stored once the sink is mended."""
    sink = Refusing(lambda _: "no such column")
    await bench.publish(make_events(10))
    async with bench.projecting(sink, received=10) as projector:
        await eventually(lambda: projector.progress.holding == "sink")
        assert "refuses all of 10 events alike" in projector.progress.reason
        sink.mended = True
        await eventually(lambda: len(sink.events) == 10)

    assert ids(sink) == list(range(1, 11))
    assert await bench.dead_letters() == []


@pytest.mark.parametrize(
    ("count", "reason"),
    [pytest.param(9, lambda _: "no", id="few alike"), pytest.param(30, str, id="many, each for its own reason")],
)
async def test_otherwise_refused_is_buried(bench: Bench, count: int, reason: Callable[[int], str]) -> None:
    """Fewer than ten, or refused for reasons of their own, are the events' fault: all are dead letters."""
    await bench.publish(make_events(count))
    async with bench.projecting(Refusing(reason), received=count) as projector:
        await eventually(lambda: projector.progress.buried == count)

    assert [letter.headers["Noetl-Reason"] for letter in await bench.dead_letters()] == [
        reason(number) for number in range(1, count + 1)
    ]
    await eventually(lambda: bench.unsettled_is(0))
