"""A batch that is rejected completely: bad events, or a broken destination."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from noetl_events import EventsRejected, ExecutorEvent
from noetl_events.sinks.fanout import FanoutSink
from noetl_events.sinks.memory import MemorySink
from noetl_events.testing import eventually, make_events
from tests.projector.bench import Bench, ids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Refusing(MemorySink):
    """A sink that rejects every event, with the *reason* for its id, until it is repaired."""

    def __init__(self, reason: Callable[[int], str]) -> None:
        super().__init__()
        self._reason = reason
        self.mended = False

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Reject all events, or store all."""
        if not self.mended:
            raise EventsRejected({place: self._reason(event.event_id or 0) for place, event in enumerate(events)})
        await super().emit_batch(events)


@pytest.mark.parametrize("others", [0, 2])
async def test_refused_alike_is_held(bench: Bench, others: int) -> None:
    """Ten or more events rejected for one reason are retried, none is dead-lettered, and all are stored in the end."""
    count = 10 + others
    sink = Refusing(lambda event_id: f"no such column {event_id if event_id <= others else ''}")
    await bench.publish(make_events(count))
    async with bench.projecting(sink, received=count) as projector:
        await eventually(lambda: projector.progress.holding == "sink")
        assert f"rejects all of {count} events, 10 of them for one reason" in projector.progress.reason
        sink.mended = True
        await eventually(lambda: len(sink.events) == count)

    assert ids(sink) == list(range(1, count + 1))
    assert await bench.dead_letters() == []


@pytest.mark.parametrize(
    ("count", "reason"),
    [pytest.param(9, lambda _: "no", id="few alike"), pytest.param(30, str, id="many, each for its own reason")],
)
async def test_otherwise_refused_is_buried(bench: Bench, count: int, reason: Callable[[int], str]) -> None:
    """Fewer than ten rejections, or rejections with different reasons, are bad events: all become dead letters."""
    await bench.publish(make_events(count))
    async with bench.projecting(Refusing(reason), received=count) as projector:
        await eventually(lambda: projector.progress.dead_letters == count)

    assert [letter.headers["Noetl-Reason"] for letter in await bench.dead_letters()] == [
        reason(number) for number in range(1, count + 1)
    ]
    await eventually(lambda: bench.unsettled_is(0))


async def test_conflicts_alike_are_buried(bench: Bench) -> None:
    """Conflicts are bad events, even for a whole batch with one reason: each becomes a dead letter of that kind."""

    class Owned(MemorySink):
        async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
            places = range(len(events))
            raise EventsRejected(dict.fromkeys(places, "another event has this key"), conflicts=places)

    await bench.publish(make_events(30))
    async with bench.projecting(Owned(), received=30) as projector:
        await eventually(lambda: projector.progress.dead_letters_by_kind["conflict"] == 30)

    assert {letter.headers["Noetl-Kind"] for letter in await bench.dead_letters()} == {"conflict"}


class Taken(MemorySink):
    """A sink that already has another event with every key except for the first two."""

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store the first two, and reject the others as conflicts."""
        await super().emit_batch([event for event in events if (event.event_id or 0) <= 2])
        places = [place for place, event in enumerate(events) if (event.event_id or 0) > 2]
        raise EventsRejected({place: f"another {place}" for place in places}, conflicts=places)


async def test_one_of_several_sinks_that_refuses_alike_is_held(bench: Bench) -> None:
    """A sink that rejects every event alike is a broken destination, whatever another sink answers."""
    broken, taken = Refusing(lambda _: "no such column"), Taken()
    await bench.publish(make_events(30))
    async with bench.projecting(FanoutSink([broken, taken]), received=30) as projector:
        await eventually(lambda: projector.progress.holding == "sink")
        assert "rejects all of 30 events, 30 of them for one reason" in projector.progress.reason
        assert "Refusing (required 1): no such column" in projector.progress.reason
        assert await bench.dead_letters() == []
        broken.mended = True
        await eventually(lambda: projector.progress.dead_letters_by_kind["conflict"] == 28)

    assert ids(broken) == list(range(1, 31))
    assert ids(taken) == [1, 2]


async def test_sinks_that_refuse_a_part_each_hold_nothing(bench: Bench) -> None:
    """A batch rejected completely by several sinks, each of which accepts some events, is dead-lettered."""

    class Half(MemorySink):
        def __init__(self, rest: int) -> None:
            super().__init__()
            self._rest = rest

        async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
            places = [place for place, event in enumerate(events) if (event.event_id or 0) % 2 == self._rest]
            raise EventsRejected(dict.fromkeys(places, "too old"))

    await bench.publish(make_events(30))
    async with bench.projecting(FanoutSink([Half(0), Half(1)]), received=30) as projector:
        await eventually(lambda: projector.progress.dead_letters == 30)
