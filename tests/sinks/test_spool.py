"""The spool: the contract, outages of the next sink, and a stream that loses messages."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from noetl_events import EventsRejected, ExecutorEvent, SinkUnavailable, decode, open_sink
from noetl_events.jetstream.streams import StreamPosition
from noetl_events.retry import Backoff
from noetl_events.sinks.jsonl import JsonlSink, read_jsonl
from noetl_events.sinks.memory import MemorySink
from noetl_events.sinks.spool.journal import Position, SpoolFull, bodies
from noetl_events.sinks.spool.sink import SpoolSink
from noetl_events.testing import FaultySink, SinkContract, eventually, make_event, make_events

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from noetl_events import EventSink

QUICK = Backoff(initial=0.01, maximum=0.02)


class Stream(MemorySink):
    """A destination that can lose acknowledged events, as a stream can."""

    def __init__(self) -> None:
        super().__init__()
        self.created = "first"
        self.last_seq = 0
        self.received: list[int] = []

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store and count the batch."""
        self.received += [event.event_id or 0 for event in events]
        self.last_seq += len(events)
        await super().emit_batch(events)

    async def watermark(self) -> StreamPosition:
        """Return the position that a stream would report."""
        return StreamPosition(self.created, self.last_seq)


class Away(MemorySink):
    """A sink that is unavailable until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.away = True
        self.asked = asyncio.Event()

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store the batch once the sink is available."""
        self.asked.set()
        if self.away:
            raise SinkUnavailable("away")
        await super().emit_batch(events)


def spool(inner: EventSink, path: Path, **changes: float) -> SpoolSink:
    """Return a spool in *path* with short waits."""
    return SpoolSink(inner, path / "spool", backoff=QUICK, **{"patience": 1.0} | changes)  # type: ignore[arg-type]


def spooled(path: Path) -> list[int | None]:
    """Return the ids in the journal."""
    return [decode(body).event_id for body in bodies(path / "spool", Position(0, 0))]


class TestSpoolSink(SinkContract):
    """The spool keeps the contract of a sink, checked at the next sink."""

    keyed = False

    @pytest.fixture(autouse=True)
    def _destination(self, tmp_path: Path) -> None:
        self.path = tmp_path
        self.inner = JsonlSink(tmp_path / "events.jsonl")

    def open(self) -> EventSink:
        """Return a spool on the same folder with the same destination."""
        self.sink = spool(self.inner, self.path, patience=60.0)
        return self.sink

    async def stored(self) -> list[ExecutorEvent]:
        """Return the forwarded events once all have arrived: an event that is not on disk never would."""
        if not (self.path / "spool").exists():
            return []
        if not self.sink._closed:
            await self.sink.drained()
        file = self.path / "events.jsonl"
        return list(read_jsonl(file)) if file.exists() else []


async def test_emit_needs_no_destination(tmp_path: Path) -> None:
    """During an outage of the next sink `emit` returns with the event on disk; later the event arrives, in order."""
    inner = Away()
    sink = spool(inner, tmp_path)
    await sink.emit_batch(make_events(50))
    await sink.emit(make_event(51))
    assert spooled(tmp_path) == list(range(1, 52))
    await inner.asked.wait()
    assert inner.events == []
    inner.away = False
    await sink.drained()
    await sink.aclose()

    assert [event.event_id for event in inner.events] == list(range(1, 52))


async def test_next_process_forwards_the_rest(tmp_path: Path) -> None:
    """A spool closed during an outage leaves its events to the next process."""
    away = Away()
    first = spool(away, tmp_path, patience=0.05)
    await first.emit_batch(make_events(20))
    await first.aclose()
    inner = MemorySink()
    second = spool(inner, tmp_path)
    await second.drained()
    await second.aclose()

    assert [event.event_id for event in inner.events] == list(range(1, 21))


async def test_concurrent_emits_share_a_sync(tmp_path: Path) -> None:
    """Tasks that emit at the same time share a few syncs, each before the emit returns."""
    inner = MemorySink()
    sink = spool(inner, tmp_path)
    await sink.emit(make_event(1))
    assert sink._opening is not None
    journal = sink._opening.result().journal
    writes = 0
    append = journal.append

    def counted(records: bytes) -> None:
        nonlocal writes
        writes += 1
        append(records)

    journal.append = counted  # type: ignore[method-assign]
    await asyncio.gather(*(sink.emit(event) for event in make_events(500, start=2)))
    await sink.drained()
    await sink.aclose()

    assert writes < 10
    assert sorted(event.event_id or 0 for event in inner.events) == list(range(1, 502))


async def test_rejected_event_is_stored_with_its_reason(tmp_path: Path) -> None:
    """An event that the next sink rejects is stored in a file, and its neighbours arrive."""
    inner = MemorySink()
    sink = spool(FaultySink(inner, [EventsRejected({1: "too large"})], after=True), tmp_path)
    await sink.emit_batch(make_events(3))
    await sink.drained()
    await sink.aclose()
    [line] = (tmp_path / "spool" / "rejected.jsonl").read_text().splitlines()

    assert json.loads(line)["reason"] == "too large"
    assert decode(json.loads(line)["event"].encode()).event_id == 2


async def test_full_spool_refuses_and_loses_nothing(tmp_path: Path) -> None:
    """Beyond its size an emit fails with the size; accepted events arrive, and then there is room again."""
    inner = Away()
    sink = spool(inner, tmp_path, max_bytes=64 * 1024)
    taken: list[int] = []

    async def emit(start: int) -> None:
        for event in make_events(1_000, start=start):
            await sink.emit(event)
            taken.append(event.event_id or 0)

    with pytest.raises(SpoolFull, match=r"is full: \d+ of 65536 bytes"):
        await emit(1)
    inner.away = False
    await sink.drained()
    for event in make_events(1_000, start=2_000):
        await sink.emit(event)
        await sink.drained()
        taken.append(event.event_id or 0)
    await sink.aclose()

    assert [event.event_id for event in inner.events] == taken


async def test_full_spool_deletes_acknowledged_events_first(tmp_path: Path) -> None:
    """Events of the replay window make room for new ones, which are worth more than a replay."""
    stream = Stream()
    sink = spool(stream, tmp_path, max_bytes=64 * 1024, replay_window=3_600.0)
    for event in make_events(1_000):
        await sink.emit(event)
        await sink.drained()
    kept = len(spooled(tmp_path))
    await sink.aclose()

    assert 0 < kept < 1_000
    assert stream.received == list(range(1, 1_001))


async def test_recreated_stream_gets_the_window_again(tmp_path: Path) -> None:
    """Events that another stream had acknowledged are forwarded to the new one, in order."""
    stream = Stream()
    first = spool(stream, tmp_path)
    await first.emit_batch(make_events(30))
    await first.drained()
    await first.aclose()
    stream = Stream()
    stream.created = "second"
    # Other publishers have filled the new stream, so its length alone says nothing.
    stream.last_seq = 100
    second = spool(stream, tmp_path)
    await second.drained()
    await second.aclose()

    assert stream.received == list(range(1, 31))


async def test_stream_that_lost_its_end_gets_it_again(tmp_path: Path) -> None:
    """A stream that lost its end gets the lost events, and none that it still has."""
    stream = Stream()
    now = 1_000.0
    sink = SpoolSink(stream, tmp_path / "spool", clock=lambda: now)
    for start in (1, 11, 21):
        now += 10
        await sink.emit_batch(make_events(10, start=start))
        await sink.drained()
    await sink.aclose()
    stream.last_seq, stream.received = 25, []
    sink = spool(stream, tmp_path)
    await sink.drained()
    await sink.aclose()

    assert stream.received == list(range(21, 31))


async def test_old_events_are_deleted(tmp_path: Path) -> None:
    """Events acknowledged before the replay window are deleted from the disk."""
    now = 1_000.0
    stream = Stream()
    sink = SpoolSink(stream, tmp_path / "spool", clock=lambda: now, max_bytes=256 * 1024)
    await sink.emit_batch(make_events(1_000))
    await sink.drained()
    kept = len(spooled(tmp_path))
    now += 301
    await sink.emit_batch(make_events(1_000, start=1_001))
    await sink.drained()
    await sink.emit_batch(make_events(1_000, start=2_001))
    await sink.drained()
    await sink.aclose()

    assert kept == 1_000
    assert set(range(1, 500)) & set(spooled(tmp_path)) == set()


async def test_bug_of_the_inner_sink_reaches_the_emitter(tmp_path: Path) -> None:
    """An error outside the contract reaches the emitter from the forwarding task."""
    sink = spool(FaultySink(MemorySink(), [KeyError("bug")]), tmp_path)
    await sink.emit(make_event(1))
    with pytest.raises(KeyError, match="bug"):
        await sink.drained()
    with pytest.raises(KeyError, match="bug"):
        await sink.emit(make_event(2))
    with pytest.raises(KeyError, match="bug"):
        await sink.aclose()

    assert spooled(tmp_path) == [1]


async def test_cancelled_emit_arrives_if_it_is_on_disk(tmp_path: Path) -> None:
    """A record with a cancelled emitter is forwarded without waiting for another emit."""
    inner = MemorySink()
    sink = spool(inner, tmp_path)
    await sink.emit(make_event(1))
    task = asyncio.ensure_future(sink.emit(make_event(2)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await eventually(lambda: 2 not in spooled(tmp_path) or len(inner.events) == 2)
    await sink.aclose()


@pytest.mark.parametrize(
    ("url", "match"),
    [
        pytest.param("spool:///var/spool/noetl", "write spool:///folder", id="no sink behind"),
        pytest.param("spool://?to=noop:", "write spool:///folder", id="no folder"),
        pytest.param("spool:///a?to=noop:&size=1", "no option size; known: to, max_bytes", id="option"),
        pytest.param("spool:///a?to=noop:&max_bytes=much", "max_bytes=much is not a number", id="number"),
        pytest.param("spool:///a?to=noop:&max_bytes=1", "max_bytes: 1 is less than", id="size"),
    ],
)
def test_wrong_url_is_refused(url: str, match: str) -> None:
    """A URL without a folder or a sink, or with an unknown part, is refused with the right form."""
    with pytest.raises(ValueError, match=match):
        open_sink(url)


async def test_missing_parent_is_unavailable(tmp_path: Path) -> None:
    """A folder with a missing parent, perhaps an unmounted volume, is not created."""
    sink = SpoolSink(MemorySink(), tmp_path / "missing" / "spool")
    with pytest.raises(SinkUnavailable, match="No such file or directory"):
        await sink.emit(make_event(1))
    await sink.aclose()
