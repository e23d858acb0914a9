"""A sink that raises errors outside of its contract: at some events, at all of them, or for a while."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from noetl_events import ExecutorEvent, SinkUnavailable
from noetl_events.envelope import decode
from noetl_events.sinks.memory import MemorySink
from noetl_events.testing import FaultySink, eventually, make_events
from tests.projector.bench import Bench, ids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Raising(MemorySink):
    """A sink with a bug at the ids that *is_bad* matches, which counts how often each event is written."""

    def __init__(self, is_bad: Callable[[int], bool]) -> None:
        super().__init__()
        self.is_bad = is_bad
        self.times: dict[int, int] = {}

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store, or fail before anything is stored."""
        for number in self._ids(events):
            self.times[number] = self.times.get(number, 0) + 1
        if any(map(self.is_bad, self._ids(events))):
            raise KeyError("bug")
        await super().emit_batch(events)

    def _ids(self, events: Sequence[ExecutorEvent]) -> list[int]:
        return [event.event_id or 0 for event in events]


@pytest.mark.parametrize("exclusive", [False, True], ids=["shared", "exclusive"])
async def test_one_bad_event_costs_no_process(bench: Bench, *, exclusive: bool) -> None:
    """A bad event among 1,000 becomes a dead letter in the running process; all others are stored in order."""
    sink = Raising(lambda number: number == 77)
    await bench.publish(make_events(1_000))
    with capture_logs() as logged:
        async with bench.projecting(sink, exclusive=exclusive) as projector:
            await eventually(lambda: projector.progress.stored + projector.progress.dead_letters == 1_000)
    [letter] = await bench.dead_letters()

    assert ids(sink) == [number for number in range(1, 1_001) if number != 77]
    assert (decode(letter.data).event_id, letter.headers["Noetl-Kind"]) == (77, "fatal")
    assert letter.headers["Noetl-Reason"] == "the sink raised KeyError at this event alone: 'bug'"
    assert max(sink.times.values()) <= 14
    [line] = [line for line in logged if line["event"] == "projector.retrying"]
    assert isinstance(line["exc_info"], KeyError)
    await eventually(lambda: bench.unsettled_is(0))


async def test_many_bad_events_beside_each_other(bench: Bench) -> None:
    """Bad events are dead letters while the sink accepts most of their batch, even if the bad ones come first."""
    sink = Raising(lambda number: number <= 30)
    await bench.publish(make_events(100))
    async with bench.projecting(sink, received=100) as projector:
        await eventually(lambda: projector.progress.dead_letters == 30)

    assert ids(sink) == list(range(31, 101))
    assert [decode(letter.data).event_id for letter in await bench.dead_letters()] == list(range(1, 31))


@pytest.mark.parametrize("count", [1, 5, 200])
async def test_sink_that_raises_at_every_event_ends_the_projector(bench: Bench, count: int) -> None:
    """A broken sink creates no dead letter: its error ends the projector each time, and nothing is acknowledged."""
    await bench.publish(make_events(count))
    for _ in range(3):
        with pytest.raises(KeyError, match="bug"):
            await bench.projector(Raising(lambda _: True), ack_wait=0.5).run()

    assert await bench.dead_letters() == []
    assert await bench.unsettled() == count


async def test_sink_that_raises_at_most_events_ends_the_projector(bench: Bench) -> None:
    """A sink that accepts one event in four is broken: nothing of its batch is acknowledged."""
    await bench.publish(make_events(100))
    projector = bench.projector(Raising(lambda number: number % 4 > 0))
    await projector.puller.request()
    await eventually(lambda: projector.in_flight == 100)
    with pytest.raises(KeyError, match="bug"):
        await projector.run()

    assert await bench.dead_letters() == []
    assert await bench.unsettled() == 100


async def test_bad_events_one_by_one_end_the_projector(bench: Bench) -> None:
    """Bad events that arrive alone are dead letters, until the sink has raised at ten in a row."""
    sink = Raising(lambda number: number > 1)
    projector = bench.projector(sink)
    running = asyncio.create_task(projector.run())
    for number in range(1, 12):
        await bench.publish(make_events(1, start=number))
        progress = projector.progress
        await eventually(lambda: running.done() or progress.stored + progress.dead_letters == number)  # noqa: B023
    with pytest.raises(KeyError, match="bug"):
        await running

    assert projector.progress.dead_letters == len(await bench.dead_letters()) == 9


async def test_sink_that_breaks_makes_no_dead_letter(bench: Bench) -> None:
    """A sink that raises also at an event that it has accepted before is broken, and no event is to blame."""
    sink = Raising(lambda number: number > 3 or len(sink.events) >= 3)
    await bench.publish(make_events(5))
    projector = bench.projector(sink)
    await projector.puller.request()
    await eventually(lambda: projector.in_flight == 5)
    with pytest.raises(KeyError, match="bug"):
        await projector.run()

    assert ids(sink) == [1, 2, 3]
    assert await bench.dead_letters() == []
    assert await bench.unsettled() == 5


async def test_error_that_passes_keeps_the_order(bench: Bench) -> None:
    """An event at which the sink raised for a while is stored before its successors."""
    # The batch of eight, its halves with event 5, and event 5 alone fail.
    left = [5]

    def is_bad(number: int) -> bool:
        left[0] -= number == 5 and left[0] > 0
        return number == 5 and left[0] > 0

    sink = Raising(is_bad)
    await bench.publish(make_events(8))
    async with bench.projecting(sink, received=8) as projector:
        await eventually(lambda: projector.progress.stored == 8)

    assert ids(sink) == list(range(1, 9))
    assert await bench.dead_letters() == []


@pytest.mark.parametrize("calls", [1, 4, 9, 12])
async def test_error_that_passes_loses_nothing(bench: Bench, calls: int) -> None:
    """An event at which the sink raised is written again once the sink works: it is stored, and no dead letter."""
    memory = MemorySink()
    await bench.publish(make_events(100))
    async with bench.projecting(FaultySink(memory, [KeyError("bug")] * calls), received=100):
        await eventually(lambda: len(memory.events) == 100)

    assert sorted(number or 0 for number in ids(memory)) == list(range(1, 101))
    assert await bench.dead_letters() == []


async def test_outage_while_a_culprit_is_looked_for(bench: Bench) -> None:
    """An outage in between holds the batch, and the culprit is found after it."""
    sink = Raising(lambda number: number == 7)
    away = FaultySink(sink, [None, None, SinkUnavailable("away"), None, SinkUnavailable("away")])
    await bench.publish(make_events(20))
    async with bench.projecting(away, received=20) as projector:
        await eventually(lambda: projector.progress.dead_letters == 1)

    assert ids(sink) == [number for number in range(1, 21) if number != 7]
