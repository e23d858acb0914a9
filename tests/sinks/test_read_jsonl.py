"""Replay of the files of JsonlSink, and of lines from other sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from noetl_events import MalformedEvent, encode
from noetl_events.sinks.jsonl import read_jsonl
from noetl_events.sinks.lines import decode_lines
from noetl_events.testing import make_event, make_events
from tests.sinks.jsonl_file import lines_of, record, write

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the file of this test."""
    return tmp_path / "run.jsonl"


async def test_replay_gives_what_was_recorded(path: Path) -> None:
    """Events are read in order, with every recorded field."""
    await record(path, *make_events(20))

    assert lines_of(*make_events(20)) == lines_of(*read_jsonl(path))


def test_replay_leaves_out_a_torn_last_line_only(path: Path) -> None:
    """A truncated last line is skipped; a last line that lacks only its newline is an event."""
    write(path, lines_of(*make_events(2)) + encode(make_event(3))[:-1])
    torn = [event.event_id for event in read_jsonl(path)]
    write(path, lines_of(*make_events(3))[:-1])
    unended = [event.event_id for event in read_jsonl(path)]

    assert (torn, unended) == ([1, 2], [1, 2, 3])


def test_replay_stops_at_the_line_a_writer_is_at(path: Path) -> None:
    """A line that its writer completes during the reading is not split into two."""
    line = lines_of(make_event(2))
    write(path, lines_of(make_event(1)) + line[:50])
    replay = read_jsonl(path)
    first = next(replay)
    rest = [*replay]
    with path.open("ab") as file:
        file.write(line[50:])

    assert first.event_id == 1
    assert rest == []
    assert [*replay] == []


def test_replay_is_lazy(path: Path) -> None:
    """An event is read on request, so damage behind it does not matter yet."""
    write(path, lines_of(make_event(1)) + b"damage\n")

    assert next(read_jsonl(path)).event_id == 1


def test_damage_is_named_by_file_and_line(path: Path) -> None:
    """A malformed line that is not the truncated last one stops the replay with its line number."""
    write(path, lines_of(make_event(1)) + b'\n{"execution_id":1}\n' + lines_of(make_event(2)))
    with pytest.raises(MalformedEvent, match=r"run\.jsonl:3: "):
        [*read_jsonl(path)]


def test_damage_is_skipped_on_request(path: Path) -> None:
    """Without strict, the replay continues behind the damage and logs its place."""
    write(path, lines_of(make_event(1)) + b"damage\n" + lines_of(make_event(2)))
    with capture_logs() as logs:
        ids = [event.event_id for event in read_jsonl(path, strict=False)]

    assert ids == [1, 2]
    assert [("lines.malformed", 2, str(path))] == [(log["event"], log["line"], log["source"]) for log in logs]


def test_missing_file_is_an_error(path: Path) -> None:
    """Replaying a missing file is an error."""
    with pytest.raises(FileNotFoundError):
        next(read_jsonl(path))


def test_lines_are_decoded_from_any_source() -> None:
    """Lines from a pipe need no newline at the end; blank ones are counted and skipped."""
    lines = [encode(make_event(1)) + b"\r\n", b"  \n", encode(make_event(2))]

    assert [event.event_id for event in decode_lines(lines, "stdin")] == [1, 2]
    with pytest.raises(MalformedEvent, match=r"stdin:4: "):
        [*decode_lines([*lines, b"{"], "stdin")]
