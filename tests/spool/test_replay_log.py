"""The replay log: the position from which to forward again after the stream has lost messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from noetl_events.jetstream.streams import StreamPosition
from noetl_events.sinks.spool.journal import Position
from noetl_events.sinks.spool.replay_log import Checkpoint, ReplayLog, load_replay_log, save_replay_log

if TYPE_CHECKING:
    from pathlib import Path


def mark(offset: int, *, created: str = "first") -> Checkpoint:
    """Return the mark after *offset* bytes, in the same second, of a stream with as many messages."""
    return Checkpoint(Position(1, offset), float(offset), StreamPosition(created, offset))


def unknown(offset: int) -> Checkpoint:
    """Return the mark after *offset* bytes of a stream that did not answer."""
    return Checkpoint(Position(1, offset), float(offset))


@pytest.mark.parametrize(
    ("marks", "end"),
    [
        pytest.param([], StreamPosition("first", 0), id="nothing acknowledged"),
        pytest.param([mark(10), mark(20)], StreamPosition("first", 20), id="the same end"),
        pytest.param([mark(10), mark(20)], StreamPosition("first", 21), id="a later end"),
        pytest.param([mark(10), unknown(20)], StreamPosition("first", 10), id="the last known end"),
        pytest.param([mark(10)], None, id="no answer"),
        pytest.param([unknown(10)], None, id="never an answer"),
    ],
)
def test_stream_without_a_loss_gets_nothing_again(marks: list[Checkpoint], end: StreamPosition | None) -> None:
    """Without a loss there is nothing to forward again, and no mark is dropped."""
    replay_log = ReplayLog(list(marks))

    assert replay_log.rewind(end) is None
    assert replay_log.checkpoints == marks


def test_lost_end_is_forwarded_again() -> None:
    """Only events behind the stream's present end are forwarded again."""
    replay_log = ReplayLog([mark(10), mark(20), mark(30)])

    assert replay_log.rewind(StreamPosition("first", 25)) == Position(1, 20)
    assert replay_log.checkpoints == [mark(10), mark(20)]


def test_recreated_stream_gets_the_replay_window() -> None:
    """Events acknowledged before the oldest mark are not forwarded again, even if the journal has them."""
    replay_log = ReplayLog([mark(10), mark(20)])

    assert replay_log.rewind(StreamPosition("second", 0)) == Position(1, 10)


def test_second_loss_during_a_replay_gets_the_whole_window_again() -> None:
    """A stream created again once more is sent the whole replay window, not the rest of it."""
    replay_log = ReplayLog([mark(10), mark(20)])
    replay_log.rewind(StreamPosition("second", 0))
    replay_log.record(mark(15, created="second"), apart=0.0)

    assert replay_log.rewind(StreamPosition("third", 0)) == Position(1, 10)


def test_events_before_the_first_answer_are_forwarded_again() -> None:
    """Events that were acknowledged before the stream was first asked may be lost; the second answer repeats none."""
    replay_log = ReplayLog([unknown(10), unknown(20)])

    assert replay_log.rewind(StreamPosition("first", 7)) == Position(1, 10)
    assert replay_log.rewind(StreamPosition("first", 7)) is None


def test_marks_keep_their_distance() -> None:
    """A mark soon after the one before is replaced, so their number is limited."""
    replay_log = ReplayLog()
    for offset in range(100):
        replay_log.record(mark(offset), apart=10.0)

    assert [each.position.offset for each in replay_log.checkpoints] == [*range(0, 100, 10), 99]


def test_known_end_is_not_replaced_by_an_unknown_one() -> None:
    """A mark without an answer of the stream is added, however soon it comes."""
    replay_log = ReplayLog([mark(10), mark(11)])
    replay_log.record(unknown(12), apart=10.0)

    assert replay_log.checkpoints == [mark(10), mark(11), unknown(12)]


def test_old_records_can_be_deleted() -> None:
    """Records before the latest mark at that time can be deleted, and that mark remains as a start."""
    replay_log = ReplayLog([mark(10), mark(20), mark(30)])

    assert replay_log.discard_older(9.0) is None
    assert replay_log.discard_older(20.0) == Position(1, 20)
    assert replay_log.checkpoints == [mark(20), mark(30)]


def test_file_keeps_the_log(tmp_path: Path) -> None:
    """A saved log is read again as it was; without a file, or with a damaged one, the log is empty."""
    file = tmp_path / "progress.json"

    assert load_replay_log(file) == ReplayLog()
    save_replay_log(ReplayLog([mark(10), unknown(20)]), file)
    assert load_replay_log(file) == ReplayLog([mark(10), unknown(20)])
    file.write_bytes(file.read_bytes()[:-1])
    assert load_replay_log(file) == ReplayLog()


def test_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """The format of the file does not change."""
    file = tmp_path / "progress.json"
    file.write_text('{"marks":[{"position":[1,10],"at":10.0,"watermark":{"created":"first","last_seq":10}}]}')

    assert load_replay_log(file) == ReplayLog([mark(10)])
