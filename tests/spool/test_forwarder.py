"""Forwarding from the journal to the next sink."""

from __future__ import annotations

import asyncio
import errno
import json
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from noetl_events import EventsRejected, ExecutorEvent, SinkUnavailable, encode
from noetl_events.jetstream.streams import StreamPosition
from noetl_events.retry import Backoff
from noetl_events.sinks.append_file import AppendFile
from noetl_events.sinks.memory import MemorySink
from noetl_events.sinks.spool import forwarder, rejected
from noetl_events.sinks.spool.journal import Journal, pack
from noetl_events.sinks.spool.sink import SpoolSink
from noetl_events.testing import FaultySink, eventually, make_event, make_events

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from noetl_events import EventSink

QUICK = Backoff(initial=0.01, maximum=0.02)


class Losing:
    """
    A stream that stores each event once, and loses its newest messages on request.

    Args:
        plan: outcome of each emit in turn: None stores the batch; a number is the stream's length after a failure.

    """

    def __init__(self, plan: Sequence[int | None] = ()) -> None:
        self.stored: list[ExecutorEvent] = []
        self.plan = list(plan)
        self.is_unreachable = False
        self.unanswered = 0

    async def emit(self, event: ExecutorEvent) -> None:
        """Store the event, or lose messages."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store the batch, or lose messages."""
        left = self.plan.pop(0) if self.plan else None
        if left is not None:
            del self.stored[left:]
            raise SinkUnavailable("away")
        known = {event.event_id for event in self.stored}
        self.stored += [event for event in events if event.event_id not in known]

    async def watermark(self) -> StreamPosition:
        """Return the stream's length, unless the stream does not answer."""
        if self.is_unreachable:
            self.unanswered += 1
            raise SinkUnavailable("no answer")
        return StreamPosition("created", len(self.stored))

    async def aclose(self) -> None:
        """Do nothing."""


class Rejecting(Losing):
    """A sink that stores all but the last event of its first batch, and rejects that one."""

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store the batch, or reject its last event."""
        is_first = not self.stored
        await super().emit_batch(events[:-1] if is_first else events)
        if is_first:
            raise EventsRejected({len(events) - 1: "too large"})


class SuspendedClock:
    """The clock of a process that was suspended for some seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        """Return the time."""
        return asyncio.get_running_loop().time() + self.seconds


def spool(inner: EventSink, path: Path) -> SpoolSink:
    """Return a spool with short waits."""
    return SpoolSink(inner, path / "spool", backoff=QUICK)


def ids(events: Sequence[ExecutorEvent]) -> list[int]:
    """Return the ids, sorted."""
    return sorted(event.event_id or 0 for event in events)


async def test_slow_sink_gets_smaller_parts(tmp_path: Path) -> None:
    """A sink too slow for a whole batch gets smaller parts, and no part twice."""

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
    sink = spool(slow, tmp_path)
    await sink.emit_batch(make_events(300))
    await sink.drained()

    assert slow.received == list(range(1, 301))
    await sink.aclose()


async def test_loss_in_an_outage_is_found_before_new_events_hide_it(tmp_path: Path) -> None:
    """A stream that returns is checked for lost messages before new ones would hide the loss."""
    stream = Losing([None, 2])
    sink = spool(stream, tmp_path)
    await sink.emit_batch(make_events(5))
    await sink.drained()
    await sink.emit_batch(make_events(10, start=6))
    await eventually(lambda: ids(stream.stored) == list(range(1, 16)))
    await sink.aclose()


async def test_loss_between_two_parts_is_found(tmp_path: Path) -> None:
    """A loss between two parts of a batch is noticed."""
    with patch.object(forwarder, "_SMALLEST_PART", 2):
        stream = Losing([0, None, 0])
        sink = spool(stream, tmp_path)
        await sink.emit_batch(make_events(4))
        await eventually(lambda: ids(stream.stored) == [1, 2, 3, 4])
        await sink.aclose()


async def test_second_close_waits_for_the_first(tmp_path: Path) -> None:
    """A second close waits for the first; a caller that waits for the forwarding gets an error."""
    away = FaultySink(MemorySink(), [SinkUnavailable("away")] * 1_000)
    sink = SpoolSink(away, tmp_path, backoff=QUICK, patience=0.3)
    await sink.emit_batch(make_events(3))
    waiting, closing = asyncio.create_task(sink.drained()), asyncio.create_task(sink.aclose())
    calls = away.calls
    await eventually(lambda: away.calls > calls + 2)
    await sink.aclose()

    assert closing.done()
    await closing
    with pytest.raises(SinkUnavailable, match="closed"):
        await waiting


async def test_loss_before_the_first_answer_is_forwarded_again(tmp_path: Path) -> None:
    """Events stored before the stream could first be checked are forwarded again, as they may be lost."""
    stream = Losing()
    stream.is_unreachable = True
    sink = spool(stream, tmp_path)
    await sink.emit_batch(make_events(5))
    await sink.drained()
    del stream.stored[3:]
    stream.is_unreachable = False
    await sink.emit_batch(make_events(5, start=6))
    await eventually(lambda: ids(stream.stored) == list(range(1, 11)))
    await sink.aclose()


async def test_loss_while_the_process_was_suspended_is_forwarded_again(tmp_path: Path) -> None:
    """After a gap without a check the stream is checked before the next write, which would hide a loss."""
    stream, clock = Losing(), SuspendedClock()
    with patch.object(forwarder, "_now", clock.now):
        sink = spool(stream, tmp_path)
        await sink.emit_batch(make_events(5))
        await sink.drained()
        clock.seconds += 60.0
        del stream.stored[3:]
        await sink.emit_batch(make_events(5, start=6))
        await eventually(lambda: ids(stream.stored) == list(range(1, 11)))
        await sink.aclose()


async def test_loss_before_a_late_check_is_forwarded_again(tmp_path: Path) -> None:
    """A loss while a slow disk stores a rejected event is noticed."""
    stream, clock = Rejecting(), SuspendedClock()

    def write_late(path: Path, sync: Callable[[int], None]) -> AppendFile:
        clock.seconds += 60.0
        del stream.stored[3:]
        return AppendFile(path, sync)

    with patch.object(forwarder, "_now", clock.now), patch.object(rejected, "AppendFile", write_late):
        sink = spool(stream, tmp_path)
        await sink.emit_batch(make_events(6))
        await eventually(lambda: ids(stream.stored) == list(range(1, 7)))
        await sink.aclose()


async def test_stream_that_cannot_be_checked_gets_no_new_events(tmp_path: Path) -> None:
    """A stream that cannot be checked gets no events; later it gets those acknowledged just before, and new ones."""
    stream = Losing()
    sink = spool(stream, tmp_path)
    await sink.emit_batch(make_events(5))
    await sink.drained()
    stream.is_unreachable = True
    await sink.emit_batch(make_events(5, start=6))
    await eventually(lambda: stream.unanswered > 0)
    del stream.stored[7:]
    await sink.emit_batch(make_events(5, start=11))
    stream.is_unreachable = False
    await eventually(lambda: ids(stream.stored) == list(range(1, 16)))
    await sink.aclose()


async def test_full_disk_does_not_end_the_forwarding(tmp_path: Path) -> None:
    """Progress that cannot be saved costs a replay after a crash, and does not stop the forwarding."""
    inner = MemorySink()
    sink = spool(inner, tmp_path)
    with patch.object(forwarder, "save_replay_log", side_effect=OSError(errno.ENOSPC, "No space left on device")):
        for start in (1, 6):
            await sink.emit_batch(make_events(5, start=start))
            await sink.drained()
    await sink.aclose()

    assert ids(inner.events) == list(range(1, 11))


async def test_rejected_event_is_stored_once_the_disk_accepts_it(tmp_path: Path) -> None:
    """A rejected event is stored in its file before the forwarding continues."""
    inner = MemorySink()
    sink = spool(FaultySink(inner, [EventsRejected({0: "too large"})], after=True), tmp_path)
    await sink.emit(make_event(1))
    refusal = OSError(errno.ENOSPC, "No space left on device")
    with patch.object(rejected, "AppendFile", side_effect=[refusal, refusal, _opened(tmp_path)]):
        await sink.drained()
    await sink.aclose()

    assert len((tmp_path / "spool" / "rejected.jsonl").read_text().splitlines()) == 1


def _opened(path: Path) -> AppendFile:
    (path / "spool").mkdir(exist_ok=True)
    return AppendFile(path / "spool" / "rejected.jsonl", lambda _: None)


async def test_torn_line_of_rejected_events_stays_apart(tmp_path: Path) -> None:
    """A line of rejected events that a power cut truncated stays apart from the next one."""
    file = tmp_path / "spool" / "rejected.jsonl"
    file.parent.mkdir()
    file.write_text('{"reason": "too')
    sink = spool(FaultySink(MemorySink(), [EventsRejected({0: "too large"})], after=True), tmp_path)
    await sink.emit(make_event(1))
    await sink.drained()
    await sink.aclose()
    [_, line] = file.read_text().splitlines()

    assert json.loads(line)["reason"] == "too large"


async def test_malformed_record_is_stored_as_rejected(tmp_path: Path) -> None:
    """Records that no version can read are stored in the file of rejected events, and the others arrive."""
    (tmp_path / "spool").mkdir()
    journal = Journal(tmp_path / "spool", max_bytes=2**20)
    journal.append(pack(b"no event") + pack(encode(make_event(1))) + pack(b"{}"))
    journal.close()
    inner = MemorySink()
    sink = spool(inner, tmp_path)
    await sink.drained()
    await sink.aclose()
    lines = (tmp_path / "spool" / "rejected.jsonl").read_text().splitlines()

    assert ids(inner.events) == [1]
    assert [json.loads(line)["event"] for line in lines] == ["no event", "{}"]


async def test_spool_of_malformed_records_comes_to_an_end(tmp_path: Path) -> None:
    """A batch without a readable record is not read again for ever."""
    (tmp_path / "spool").mkdir()
    journal = Journal(tmp_path / "spool", max_bytes=2**20)
    journal.append(pack(b"no event"))
    journal.close()
    sink = spool(MemorySink(), tmp_path)
    await sink.drained()
    await sink.aclose()

    assert len((tmp_path / "spool" / "rejected.jsonl").read_text().splitlines()) == 1
