"""
The conformance suite of sinks: one test for each promise of `noetl_events.sink.EventSink`.

    class TestMySink(SinkContract):
        def open(self) -> EventSink: ...
        async def stored(self) -> list[ExecutorEvent]: ...

`open` returns a new sink on the same destination each time; `stored` reads the destination *around* the sink.
"""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

import pytest

from noetl_events.envelope import decode, encode
from noetl_events.sink import EventSink, EventsRejected
from noetl_events.testing.events import make_another, make_event, make_events

if TYPE_CHECKING:
    from noetl_events.envelope import ExecutorEvent


def bodies(events: list[ExecutorEvent]) -> set[bytes]:
    """Return the wire forms of *events*, for comparing them."""
    return {encode(event) for event in events}


class SinkContract:
    """The promises of a sink as tests: a subclass implements `open` and `stored`, and pytest runs them."""

    keeps_events: ClassVar[bool] = True
    """False for a sink that stores nothing by design, so its destination is not checked."""

    keyed: ClassVar[bool | None] = None
    """
    True for a destination that keeps one event for a key `(execution_id, event_id)`: of two different events with one
    key the later one is rejected, with its index in `EventsRejected.conflicts`.  False for a log, which keeps both.
    None allows either, as long as no event is lost; a sink should set one of the other values.
    """

    @abstractmethod
    def open(self) -> EventSink:
        """Return a new sink; all calls in one test open the same destination."""

    @abstractmethod
    async def stored(self) -> list[ExecutorEvent]:
        """Return the events of the destination in its order, read without the sink."""

    async def assert_stored(self, expected: list[ExecutorEvent]) -> None:
        """Fail unless the destination contains exactly *expected*, each once."""
        if not self.keeps_events:
            return
        stored = await self.stored()

        assert bodies(expected) == bodies(stored)
        assert len(expected) == len(stored), "an event is stored more than once"

    async def test_is_an_event_sink(self) -> None:
        """A sink has the three methods of the protocol."""
        assert isinstance(self.open(), EventSink)

    async def test_emit_stores_before_it_returns(self) -> None:
        """The event is at the destination when `emit` returns, though the sink is still open."""
        sink = self.open()
        await sink.emit(make_event(1))

        await self.assert_stored([make_event(1)])
        await sink.aclose()

    async def test_batch_is_stored_before_it_returns(self) -> None:
        """Each event of the batch is at the destination when `emit_batch` returns."""
        sink = self.open()
        await sink.emit_batch(make_events(100))

        await self.assert_stored(make_events(100))
        await sink.aclose()

    async def test_batch_is_stored_in_order(self) -> None:
        """Events of one batch are stored in the given order, if the destination has an order."""
        sink = self.open()
        await sink.emit_batch(make_events(50))

        if self.keeps_events:
            assert [event.event_id for event in await self.stored()] == list(range(1, 51))
        await sink.aclose()

    async def test_empty_batch_is_nothing(self) -> None:
        """An empty batch is accepted and stores nothing."""
        sink = self.open()
        await sink.emit_batch([])

        await self.assert_stored([])
        await sink.aclose()

    async def test_emitted_twice_is_stored_once(self) -> None:
        """The same events emitted again have the effect of one emit."""
        sink = self.open()
        await sink.emit_batch(make_events(10))
        await sink.emit_batch(make_events(15))
        await sink.emit(make_event(3))

        await self.assert_stored(make_events(15))
        await sink.aclose()

    async def test_twice_in_one_batch_is_stored_once(self) -> None:
        """An event that occurs twice in a batch is stored once."""
        sink = self.open()
        await sink.emit_batch([make_event(1), make_event(2), make_event(1)])

        await self.assert_stored(make_events(2))
        await sink.aclose()

    async def test_emitted_again_after_reopening_is_stored_once(self) -> None:
        """A new sink on the same destination recognises the events that the last one stored."""
        first = self.open()
        await first.emit_batch(make_events(10))
        await first.aclose()
        second = self.open()
        await second.emit_batch(make_events(12))

        await self.assert_stored(make_events(12))
        await second.aclose()

    async def test_same_event_made_again_is_no_conflict(self) -> None:
        """An event is the same as created or as decoded, alone or in a batch with others."""
        sink = self.open()
        await self._emit_whole(sink, make_events(3))
        await self._emit_whole(sink, [decode(encode(event)) for event in make_events(4)])
        await self._emit_whole(sink, [make_event(2), make_event(5), make_event(2), decode(encode(make_event(5)))])

        await self.assert_stored(make_events(5))
        await sink.aclose()

    async def test_same_id_in_another_execution_is_another_event(self) -> None:
        """The key of an event is its execution and its id, so executions do not share ids."""
        sent = [make_event(1), make_event(1, execution_id=7), make_event(1, execution_id=8)]
        sink = self.open()
        await sink.emit_batch(sent[:2])
        await sink.emit(sent[2])

        await self.assert_stored(sent)
        await sink.aclose()

    async def test_conflict_with_a_stored_event(self) -> None:
        """A different event with the key of a stored one is rejected or kept, and never taken for the stored one."""
        sink = self.open()
        await sink.emit_batch(make_events(3))
        kept = await self._emit_conflict(sink, [make_event(4), make_another(2), make_event(5)], conflict=1)

        await self.assert_stored([*make_events(5), *kept])
        await sink.aclose()

    async def test_conflict_within_a_batch(self) -> None:
        """The first of two different events with one key in a batch is stored, whichever has the larger body."""
        sink = self.open()
        kept = await self._emit_conflict(
            sink, [make_event(9), make_event(2), make_another(2), make_event(1)], conflict=2
        )
        kept += await self._emit_conflict(sink, [make_another(4), make_event(4), make_event(3)], conflict=1)

        await self.assert_stored([*make_events(3), make_event(9), make_another(4), *kept])
        await sink.aclose()

    async def test_conflict_after_reopening(self) -> None:
        """A new sink compares with events that the last one stored."""
        first = self.open()
        await first.emit(make_event(1))
        await first.aclose()
        second = self.open()
        if second is first:
            pytest.skip("it is its own destination")
        kept = await self._emit_conflict(second, [make_another(1)], conflict=0)

        await self.assert_stored([make_event(1), *kept])
        await second.aclose()

    async def test_conflict_emitted_again_is_still_one(self) -> None:
        """A rejected event is rejected again, and its neighbours are stored once."""
        sink = self.open()
        await sink.emit(make_event(1))
        for _ in range(2):
            kept = await self._emit_conflict(sink, [make_event(2), make_another(1), make_event(1)], conflict=1)

        await self.assert_stored([*make_events(2), *kept])
        await sink.aclose()

    async def test_other_payload_is_a_variant(self) -> None:
        """The same event with another payload is no conflict: a keyed destination keeps the first, a log keeps both."""
        variant = make_event(1, context={"masked": True})
        sink = self.open()
        await self._emit_whole(sink, [make_event(1), variant])
        await self._emit_whole(sink, [variant, make_event(2)])

        if self.keeps_events:
            stored = bodies(await self.stored())

            assert stored - bodies([variant]) == bodies(make_events(2)), "the event that came first is kept"
            assert self.keyed is None or (encode(variant) in stored) is not self.keyed
        await sink.aclose()

    async def test_every_field_survives(self) -> None:
        """All fields are stored as emitted: extreme ids, microseconds, every kind of JSON, None left out."""
        sent = [
            make_event(1, context=None, worker_id=None, meta=None),
            make_event(2**63 - 1, execution_id=-(2**63), step="", status=""),
            make_event(-5, context=[1, -1.5, True, None, 'π \U0001f680 \\ " \t\n', {"": {}}], meta=[]),
            make_event(7, step="quote ' \" ; -- \\N \\. \t", event_type="a.b", worker_id="wörker"),
        ]
        sink = self.open()
        await sink.emit_batch(sent)

        await self.assert_stored(sent)
        await sink.aclose()

    async def test_rejects_exactly_what_can_never_be_stored(self) -> None:
        """An event that JSON cannot express is rejected by its index, and its neighbours are stored."""
        if not self.keeps_events:
            pytest.skip("a sink that keeps nothing refuses nothing")
        sink = self.open()
        with pytest.raises(EventsRejected) as rejection:
            await sink.emit_batch([make_event(1), make_event(2, context={"x": math.nan}), make_event(3)])

        assert [*rejection.value.reasons] == [1]
        assert "context.x" in rejection.value.reasons[1]
        await self.assert_stored([make_event(1), make_event(3)])
        await sink.aclose()

    async def test_event_without_id_is_given_one_or_refused(self) -> None:
        """An event without an id gets one, or is refused before anything of its batch is stored."""
        if not self.keeps_events:
            pytest.skip("a sink that keeps nothing needs no id")
        sink = self.open()
        try:
            await sink.emit_batch([make_event(1), make_event(None)])
        except ValueError:
            await self.assert_stored([])
        else:
            first, second = await self.stored()

            assert None not in (first.event_id, second.event_id)
        await sink.aclose()

    async def test_rejection_reaches_only_its_emitter(self) -> None:
        """A rejection fails only the emit of the rejected event, and no concurrent one."""
        if not self.keeps_events:
            pytest.skip("a sink that keeps nothing refuses nothing")
        sink = self.open()
        sent = [make_event(1), make_event(2, context={"x": math.nan}), make_event(3)]
        first, second, third = await asyncio.gather(*(sink.emit(event) for event in sent), return_exceptions=True)

        assert (first, third) == (None, None)
        assert isinstance(second, EventsRejected)
        await self.assert_stored([make_event(1), make_event(3)])
        await sink.aclose()

    async def test_concurrent_emits_are_all_stored(self) -> None:
        """Many tasks may emit through one sink concurrently, some of them the same event."""
        sink = self.open()
        await asyncio.gather(*(sink.emit(event) for event in make_events(50) * 2))

        await self.assert_stored(make_events(50))
        await sink.aclose()

    async def test_cancelled_emit_can_be_emitted_again(self) -> None:
        """After a cancellation the outcome is unknown, the sink is usable, and a second emit stores each event once."""
        sink = self.open()
        sent: list[ExecutorEvent] = []
        # The cancellations come ever later: before, within and after a write of any duration.
        for turns in (0, 1, 2, 3, 4, 6, 8, 16, 32, 64, 128, 256, 512, 1024):
            events = make_events(20, start=len(sent) + 1)
            sent += events
            await self._emit_for(sink, events, turns)
        await sink.emit_batch(sent)

        await self.assert_stored(sent)
        await sink.aclose()

    async def test_close_finishes_what_was_accepted(self) -> None:
        """A close during emits stores their events before it returns."""
        sink = self.open()
        emits = [asyncio.ensure_future(sink.emit(event)) for event in make_events(10)]
        await asyncio.sleep(0)
        await sink.aclose()
        await asyncio.gather(*emits)

        await self.assert_stored(make_events(10))

    async def test_close_is_safe_before_use_and_twice(self) -> None:
        """A sink that was never used closes twice."""
        sink = self.open()
        await sink.aclose()
        await sink.aclose()

    async def test_close_is_safe_twice_after_use(self) -> None:
        """A sink that was used closes twice, and keeps its events."""
        sink = self.open()
        await sink.emit(make_event(1))
        await sink.aclose()
        await sink.aclose()

        await self.assert_stored([make_event(1)])

    async def test_closed_sink_refuses(self) -> None:
        """A closed sink raises instead of dropping an event."""
        if not self.keeps_events:
            pytest.skip("a sink that keeps nothing has nothing to lose")
        sink = self.open()
        await sink.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await sink.emit(make_event(1))

        await self.assert_stored([])

    async def _emit_whole(self, sink: EventSink, batch: list[ExecutorEvent]) -> None:
        """Emit *batch*, and fail if any of it is rejected."""
        assert await self._rejection(sink, batch) is None

    async def _emit_conflict(
        self, sink: EventSink, batch: list[ExecutorEvent], *, conflict: int
    ) -> list[ExecutorEvent]:
        """Emit *batch*; fail unless only the event at index *conflict* is rejected, or return it if it is kept."""
        if (rejection := await self._rejection(sink, batch)) is None:
            assert not self.keyed, "a different event with a key that is there was not rejected"
            return [batch[conflict]]
        assert self.keyed is not False, "rejected, though the destination has no key"
        assert {*rejection.reasons} == {conflict}
        assert rejection.conflicts == {conflict}, "a conflict is named in EventsRejected.conflicts"
        assert rejection.reasons[conflict].strip(), "a conflict has a reason"
        return []

    async def _rejection(self, sink: EventSink, batch: list[ExecutorEvent]) -> EventsRejected | None:
        try:
            await sink.emit_batch(batch)
        except EventsRejected as exc:
            return exc
        return None

    async def _emit_for(self, sink: EventSink, events: list[ExecutorEvent], turns: int) -> None:
        task = asyncio.ensure_future(sink.emit_batch(events))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
