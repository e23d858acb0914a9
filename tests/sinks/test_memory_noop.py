"""The two sinks without a destination."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import pytest

from noetl_events import EventEmitter, Snowflake
from noetl_events.sinks.memory import MemorySink
from noetl_events.sinks.noop import NoopSink
from noetl_events.testing import SinkContract, make_event, make_events

if TYPE_CHECKING:
    from noetl_events import EventSink, ExecutorEvent


class TestMemorySink(SinkContract):
    """MemorySink keeps the contract except for storage that outlives it."""

    keyed = True

    @pytest.fixture(autouse=True)
    def _memory(self) -> None:
        self.sink = MemorySink()

    def open(self) -> EventSink:
        """Return the sink of this test, which is its own destination."""
        return self.sink

    async def stored(self) -> list[ExecutorEvent]:
        """Return the events of the sink."""
        return self.sink.events

    async def test_emitted_again_after_reopening_is_stored_once(self) -> None:
        """A closed MemorySink keeps its events readable, and another one starts empty."""
        await self.sink.emit_batch(make_events(3))
        await self.sink.aclose()

        await self.assert_stored(make_events(3))
        assert MemorySink().events == []

    async def test_keeps_the_first_of_two_variants(self) -> None:
        """The same event with another status or payload is counted, and the first one stays."""
        await self.sink.emit(make_event(1, status="STARTED"))
        await self.sink.emit(make_event(1, status="COMPLETED"))
        await self.sink.emit(make_event(1, status="STARTED", context="masked"))

        await self.assert_stored([make_event(1, status="STARTED")])
        assert self.sink.variants == 2

    def test_opens_by_url(self) -> None:
        """`memory:` opens a new and empty sink."""
        assert MemorySink.from_url("memory:").events == []


class TestNoopSink(SinkContract):
    """NoopSink keeps the part of the contract that needs no storage."""

    keeps_events = False

    def open(self) -> EventSink:
        """Return a new sink."""
        return NoopSink.from_url("noop:")

    async def stored(self) -> list[ExecutorEvent]:
        """Return nothing, because nothing is stored."""
        return []

    async def test_accepts_any_event(self) -> None:
        """Every emitted event is accepted, and returned as stamped."""
        emitter = EventEmitter(42, self.open(), worker_id="worker-1", new_id=Snowflake(node=1))
        event = await emitter.emit("command.completed", "start", "COMPLETED", {"any": ["thing", 1, None]})

        assert (event.execution_id, event.event_type) == (42, "command.completed")
        assert (event.worker_id, event.context) == ("worker-1", {"any": ["thing", 1, None]})

    async def test_event_without_id_is_given_one_or_refused(self) -> None:
        """An event without id is accepted, because nothing is keyed by an id."""
        sink = self.open()
        await sink.emit_batch([make_event(1), make_event(None)])
        await sink.aclose()

    async def test_rejects_exactly_what_can_never_be_stored(self) -> None:
        """No event is rejected, because none is stored."""
        sink = self.open()
        await sink.emit_batch([make_event(1), make_event(2, context={"x": math.nan})])
        await sink.aclose()

    async def test_rejection_reaches_only_its_emitter(self) -> None:
        """Concurrent emits all return, even for an event that every other sink rejects."""
        sink = self.open()
        await asyncio.gather(sink.emit(make_event(1)), sink.emit(make_event(2, context={"x": math.nan})))
        await sink.aclose()

    async def test_closed_sink_refuses(self) -> None:
        """A closed sink accepts events like an open one, as both drop them."""
        sink = self.open()
        await sink.aclose()
        await sink.emit(make_event(1))
