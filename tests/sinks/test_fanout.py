"""FanoutSink: the meaning of stored with several sinks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from structlog.testing import capture_logs

from noetl_events import EventsRejected, SinkUnavailable, open_sink
from noetl_events.sinks.fanout import BestEffort, FanoutSink
from noetl_events.sinks.jsonl import JsonlSink, read_jsonl
from noetl_events.sinks.memory import MemorySink
from noetl_events.testing import FaultySink, SinkContract, make_event, make_events

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from noetl_events import EventSink, ExecutorEvent


class TestFanoutSink(SinkContract):
    """FanoutSink keeps the contract of a sink."""

    keyed = False

    @pytest.fixture(autouse=True)
    def _paths(self, tmp_path: Path) -> None:
        self.paths = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]

    def open(self) -> EventSink:
        """Return a new sink for two files."""
        first, second = [quote(f"jsonl:{path}", safe="") for path in self.paths]
        return open_sink(f"fanout:?to={first}&to={second}&optional=noop:")

    async def stored(self) -> list[ExecutorEvent]:
        """Return the events that both files hold."""
        first, second = [list(read_jsonl(path)) if path.exists() else [] for path in self.paths]

        assert sorted(event.event_id or 0 for event in first) == sorted(event.event_id or 0 for event in second)
        return first


class Stuck(MemorySink):
    """A sink that never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = asyncio.Event()
        self.left = False

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Wait for ever."""
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left = True


def ids(sink: MemorySink) -> list[int | None]:
    """Return the event ids in *sink*."""
    return [event.event_id for event in sink.events]


async def test_outage_of_a_required_sink_holds_and_the_other_stores() -> None:
    """An event is not stored while a required sink is unavailable; emitted again, every sink has it once."""
    first, second = MemorySink(), MemorySink()
    faulty = FaultySink(second, [SinkUnavailable("away", 7.0)])
    sink = FanoutSink([first, faulty])
    with pytest.raises(SinkUnavailable, match=r"^FaultySink \(required 2\): away$") as failure:
        await sink.emit_batch(make_events(3))
    assert (failure.value.retry_after, ids(first), ids(second)) == (7.0, [1, 2, 3], [])
    await sink.emit_batch(make_events(3))

    assert ids(first) == ids(second) == [1, 2, 3]


async def test_rejection_names_its_sink() -> None:
    """The rejection of a required sink is reported under its name, even if another sink stored the event."""
    first = MemorySink()
    rejecting = FaultySink(MemorySink(), [EventsRejected({0: "twice", 1: "too long"}, conflicts=[0, 1])])
    again = FaultySink(MemorySink(), [EventsRejected({1: "too old", 2: "no"})])
    with pytest.raises(EventsRejected) as rejection:
        await FanoutSink([first, rejecting, again]).emit_batch(make_events(3))

    assert rejection.value.reasons == {
        0: "FaultySink (required 2): twice",
        1: "FaultySink (required 2): too long; FaultySink (required 3): too old",
        2: "FaultySink (required 3): no",
    }
    assert rejection.value.conflicts == {0}
    assert ids(first) == [1, 2, 3]


async def test_rejection_has_the_reason_of_each_sink() -> None:
    """The rejections of each sink can be told apart, also for a fan-out behind a fan-out."""
    conflict = FaultySink(MemorySink(), [EventsRejected({0: "taken"}, conflicts=[0])])
    refusal = FaultySink(MemorySink(), [EventsRejected({0: "no", 1: "no"})])
    with pytest.raises(EventsRejected) as rejection:
        await FanoutSink([MemorySink(), FanoutSink([conflict, refusal])]).emit_batch(make_events(2))
    first, second = rejection.value.parts

    assert [{*part.conflicts} for part in (first, second)] == [{0}, set()]
    assert first.reasons == {0: "FanoutSink (required 2): FaultySink (required 1): taken"}
    assert second.reasons == dict.fromkeys((0, 1), "FanoutSink (required 2): FaultySink (required 2): no")
    assert (first.parts, second.parts) == ((first,), (second,))


async def test_outage_comes_before_rejection() -> None:
    """An outage of one sink wins over a rejection by another: the batch is retried, and no event is dead-lettered."""
    sink = FanoutSink(
        [FaultySink(MemorySink(), [EventsRejected({0: "no"})]), FaultySink(MemorySink(), [SinkUnavailable("away")])]
    )
    with pytest.raises(SinkUnavailable):
        await sink.emit_batch(make_events(2))


async def test_bug_of_a_sink_is_no_outage() -> None:
    """An exception outside the contract escapes unchanged, also from an optional sink."""
    bug = KeyError("bug")
    for sink in (
        FanoutSink([FaultySink(MemorySink(), [SinkUnavailable("away")]), FaultySink(MemorySink(), [bug])]),
        FanoutSink([MemorySink()], [FaultySink(MemorySink(), [bug])]),
    ):
        with pytest.raises(KeyError):
            await sink.emit(make_event(1))


@pytest.mark.parametrize("fault", [SinkUnavailable("away"), EventsRejected({0: "no"})])
async def test_optional_sink_never_holds(fault: Exception) -> None:
    """Events that an optional sink rejects or cannot store are counted, logged, and count as stored."""
    required = MemorySink()
    sink = FanoutSink([required], [FaultySink(MemorySink(), [fault])])
    with capture_logs() as logs:
        await sink.emit(make_event(1))

    assert ids(required) == [1]
    assert sink.missed == {"FaultySink (optional 1)": 1}
    assert [(log["event"], log["sink"]) for log in logs] == [("fanout.missed", "FaultySink (optional 1)")]


async def test_stuck_optional_sink_delays_briefly() -> None:
    """An optional sink that does not answer is cancelled and skipped for a while."""
    required, stuck = MemorySink(), Stuck()
    sink = FanoutSink([required], [stuck], patience=0.05)
    await asyncio.wait_for(sink.emit(make_event(1)), 180)
    stuck.left = False
    await asyncio.wait_for(sink.emit(make_event(2)), 180)

    assert ids(required) == [1, 2]
    assert not stuck.left
    assert sink.missed == {"Stuck (optional 1)": 2}


async def test_missed_events_are_logged_once_a_minute_and_tried_again() -> None:
    """An optional sink is retried after its wait, and its missed events are logged once a minute."""
    now = 0.0
    inner = MemorySink()
    faulty = FaultySink(inner, [SinkUnavailable("away")] * 10)
    effort = BestEffort(faulty, name="x", now=lambda: now)
    with capture_logs() as logs:
        for second in range(121):
            now = float(second)
            await effort.emit_batch([make_event(second)])

    # The ten waits double from two seconds to ten, each with a jitter of up to a half of it.
    assert 38 <= effort.missed <= 86
    assert ids(inner) == list(range(effort.missed, 121))
    assert [log["missed"] for log in logs] == [1, 61][: len(logs)]


async def test_cancellation_reaches_every_sink_and_waits_for_it() -> None:
    """A cancelled emit cancels every sink and waits for them."""
    stuck = [Stuck(), Stuck()]
    task = asyncio.ensure_future(FanoutSink(stuck).emit(make_event(1)))
    for one in stuck:
        await one.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert all(one.left for one in stuck)


async def test_only_owned_sinks_are_closed(tmp_path: Path) -> None:
    """Sinks given to the fan-out stay open; those opened from its URL are closed."""
    given = MemorySink()
    await FanoutSink([given]).aclose()
    await given.emit(make_event(1))
    path = tmp_path / "run.jsonl"
    opened = open_sink(f"fanout:?to={quote(f'jsonl:{path}', safe='')}")
    await opened.emit(make_event(1))
    await opened.aclose()
    other = JsonlSink(path)
    await other.emit(make_event(2))
    await other.aclose()

    assert [event.event_id for event in read_jsonl(path)] == [1, 2]


@pytest.mark.parametrize("url", ["fanout:", "fanout:?optional=noop:", "fanout:?to=noop:&x=1", "fanout://h?to=noop:"])
def test_wrong_url_is_refused(url: str) -> None:
    """A URL without a required sink, or with anything else in it, is refused."""
    with pytest.raises(ValueError, match="fanout"):
        open_sink(url)


async def test_close_waits_for_what_is_under_way() -> None:
    """Closing waits for the emits in flight, also if the sinks behind stay open."""
    slow = Stuck()
    sink = FanoutSink([slow])
    emit = asyncio.ensure_future(sink.emit(make_event(1)))
    await slow.entered.wait()
    closing = asyncio.ensure_future(sink.aclose())
    await asyncio.sleep(0.01)
    assert not closing.done()
    emit.cancel()
    await closing

    assert emit.cancelled()
