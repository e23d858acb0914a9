"""RecordingSink: a recording in segments, and its replay."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from noetl_events import SinkUnavailable, open_sink
from noetl_events.sinks.recording import RecordingSink, Rotation, count_lines, read_recording, read_rotation, segments
from noetl_events.testing import SinkContract, make_event, make_events

if TYPE_CHECKING:
    from pathlib import Path

    from noetl_events import EventSink, ExecutorEvent


class TestRecordingSink(SinkContract):
    """A recording in a single segment keeps the contract of a sink."""

    keyed = False

    options = ""

    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    def open(self) -> EventSink:
        """Return a new sink on the directory of this test."""
        return open_sink(f"jsonl://{self.directory}/{self.options}")

    async def stored(self) -> list[ExecutorEvent]:
        """Return the events of all segments."""
        return list(read_recording(self.directory))


class TestRecordingSinkInSegments(TestRecordingSink):
    """A recording with a segment for each emit keeps the contract, too."""

    options = "?rotate=1"


class TestRecordingSinkByAge(TestRecordingSink):
    """A recording with segments that expire at once keeps the contract, too."""

    def open(self) -> EventSink:
        """Return a new sink on the directory of this test."""
        return RecordingSink(self.directory, rotate=Rotation(size=None, age=0))


class TestRecordingSinkCompressed(TestRecordingSink):
    """A recording with compressed segments keeps the contract, too."""

    options = "?rotate=1KiB&compress=gzip&fsync=false"


async def test_segments_are_numbered_and_read_in_order(tmp_path: Path) -> None:
    """More than nine segments, compressed or not, are read in the order of writing."""
    for start in range(1, 23):
        sink = RecordingSink(tmp_path, rotate=Rotation(size=1), compress_finished=start % 2 == 0)
        await sink.emit(make_event(start))
        await sink.aclose()

    assert [path.name for path in segments(tmp_path)][:2] == ["events-00000001.jsonl", "events-00000002.jsonl.gz"]
    assert [event.event_id for event in read_recording(tmp_path)] == list(range(1, 23))


async def test_segment_that_a_crash_left_twice_is_read_once(tmp_path: Path) -> None:
    """A crash between compressing and deleting leaves both files; they count as one."""
    for compress_finished in (False, True):
        sink = RecordingSink(tmp_path, rotate=Rotation(size=1), compress_finished=compress_finished)
        await sink.emit_batch(make_events(1 + compress_finished))
        await sink.aclose()
    packed = tmp_path / "events-00000002.jsonl.gz"
    packed.rename(tmp_path / "events-00000001.jsonl.gz")

    assert [event.event_id for event in read_recording(tmp_path)] == [1]


async def test_second_writer_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    """Only one sink writes a directory."""
    first, second = RecordingSink(tmp_path), RecordingSink(tmp_path)
    await first.emit(make_event(1))
    with pytest.raises(SinkUnavailable, match="another writer"):
        await second.emit(make_event(2))
    await first.aclose()
    await second.emit(make_event(2))
    await second.aclose()

    assert [event.event_id for event in read_recording(tmp_path)] == [1, 2]


async def test_segment_that_cannot_be_finished_loses_nothing(tmp_path: Path) -> None:
    """Where compressing fails, the events are stored, the segment stays plain, and a line is logged."""
    (tmp_path / "events-00000001.jsonl.gz.part").mkdir()
    sink = RecordingSink(tmp_path, rotate=Rotation(size=1), compress_finished=True)
    with capture_logs() as logs:
        await sink.emit(make_event(1))
    await sink.emit(make_event(2))
    await sink.aclose()

    assert [log["event"] for log in logs] == ["jsonl.segment_unfinished"]
    assert [event.event_id for event in read_recording(tmp_path)] == [1, 2]


async def test_segment_ends_at_its_age(tmp_path: Path) -> None:
    """A segment older than the limit ends with the next emit, also of another process; a younger one continues."""
    for start in (1, 2, 3):
        sink = RecordingSink(tmp_path, rotate=Rotation(size=None, age=3_600))
        await sink.emit(make_event(start))
        await sink.aclose()
        if start == 2:
            hour_ago = (tmp_path / ".lock").stat().st_mtime - 3_600
            os.utime(tmp_path / ".lock", (hour_ago, hour_ago))

    [finished] = segments(tmp_path)
    assert [event.event_id for event in read_recording(finished)] == [1, 2]
    assert [event.event_id for event in read_recording(tmp_path / "current.jsonl")] == [3]


async def test_age_counts_from_the_first_event_of_a_segment(tmp_path: Path) -> None:
    """An old recording without a current segment starts a new one with its own age."""
    sink = RecordingSink(tmp_path, rotate=Rotation(size=None, age=3_600))
    await sink.emit(make_event(1))
    os.utime(tmp_path / ".lock", (0, 0))
    await sink.emit(make_event(2))
    await sink.emit(make_event(3))
    await sink.aclose()

    assert [event.event_id for event in read_recording(tmp_path / "current.jsonl")] == [2, 3]
    assert (tmp_path / ".lock").stat().st_mtime > 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", Rotation(size=64 * 2**20)),
        ("100MiB", Rotation(size=100 * 2**20)),
        ("500", Rotation(size=500)),
        ("90s", Rotation(size=None, age=90)),
        ("1h", Rotation(size=None, age=3_600)),
        ("1d,2GiB", Rotation(size=2**31, age=86_400)),
    ],
)
def test_rotation_is_a_size_or_an_age_or_both(value: str, expected: Rotation) -> None:
    """The unit tells size from age; the first limit reached ends a segment."""
    assert read_rotation(value) == expected


@pytest.mark.parametrize("query", ["rotate=0", "rotate=1MB", "rotate=1h,", "rotate=1h,2h", "rotate=0h"])
def test_wrong_rotation_is_refused(query: str) -> None:
    """A rotation that is neither size nor age is refused by name."""
    with pytest.raises(ValueError, match="sink URL: rotate="):
        open_sink(f"jsonl:///tmp/?{query}")


@pytest.mark.parametrize("query", ["compress=zip", "fsync=x", "size=1"])
def test_wrong_option_is_refused(query: str) -> None:
    """An unknown option is refused."""
    with pytest.raises(ValueError, match="sink URL"):
        open_sink(f"jsonl:///tmp/?{query}")


async def test_lines_are_counted_over_all_segments(tmp_path: Path) -> None:
    """The length of a recording counts all its files, compressed or not."""
    for compress_finished in (False, True):
        sink = RecordingSink(tmp_path, rotate=Rotation(size=1000), compress_finished=compress_finished)
        await sink.emit_batch(make_events(5 + 5 * compress_finished))
        await sink.aclose()
    sink = RecordingSink(tmp_path)
    await sink.emit(make_event(11))
    await sink.aclose()

    assert count_lines(tmp_path) == 11
