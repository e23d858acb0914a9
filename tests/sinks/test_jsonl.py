"""JsonlSink: the contract, its URLs, and other programs that use the same file."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec import Raw

from noetl_events import SinkUnavailable, decode
from noetl_events.sinks.jsonl import JsonlSink, read_jsonl
from noetl_events.testing import SinkContract, make_event, make_events
from tests.sinks.jsonl_file import content, ids_in, record

if TYPE_CHECKING:
    from noetl_events import EventSink, ExecutorEvent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the file of this test."""
    return tmp_path / "run.jsonl"


class TestJsonlSink(SinkContract):
    """JsonlSink keeps the contract of a sink."""

    keyed = False

    @pytest.fixture(autouse=True)
    def _path(self, path: Path) -> None:
        self.path = path

    def open(self) -> EventSink:
        """Return a new sink on the file of this test."""
        return JsonlSink(self.path)

    async def stored(self) -> list[ExecutorEvent]:
        """Return the events in the file."""
        return [decode(line) for line in self.path.read_bytes().splitlines()] if self.path.exists() else []


class TestJsonlSinkWithoutFsync(TestJsonlSink):
    """Without fsync the contract holds while the machine runs."""

    def open(self) -> EventSink:
        """Return a new sink as its URL opens it."""
        return JsonlSink.from_url(f"jsonl://{self.path}?fsync=false")


async def test_pretty_printed_payload_stays_on_one_line(path: Path) -> None:
    """Line breaks in a payload that is written as received do not break the line."""
    await record(path, make_event(1, context=Raw(b'{\r\n  "a": 1\n}')))

    assert content(path).count(b"\n") == 1
    assert ids_in(path) == [1]


async def test_nothing_is_opened_before_the_first_event(path: Path) -> None:
    """A sink without events creates no file."""
    await record(path)

    with pytest.raises(FileNotFoundError):
        content(path)


async def test_second_writer_is_refused_until_the_first_closes(path: Path) -> None:
    """Only one sink writes a file: the second waits for the first to close."""
    first, second = JsonlSink(path), JsonlSink(path)
    await first.emit(make_event(1))
    with pytest.raises(SinkUnavailable, match=r"run\.jsonl: another writer has it open"):
        await second.emit(make_event(2))
    await first.aclose()
    await second.emit_batch(make_events(2))
    await second.aclose()

    assert ids_in(path) == [1, 2]


async def test_lock_does_not_outlive_close_in_a_forked_child(path: Path) -> None:
    """A forked child that lives on does not keep the lock from the next writer."""
    first = JsonlSink(path)
    await first.emit(make_event(1))
    assert first._file is not None
    inherited = os.dup(first._file._file.fileno())
    await first.aclose()
    await record(path, make_event(2))
    os.close(inherited)

    assert ids_in(path) == [1, 2]


async def test_renamed_file_is_followed_by_a_new_one(path: Path) -> None:
    """After the file is renamed the next event starts a new one, and duplicates stay known."""
    old = path.with_suffix(".1")
    sink = JsonlSink(path)
    await sink.emit(make_event(1))
    await asyncio.to_thread(path.rename, old)
    await sink.emit_batch(make_events(2))
    await sink.aclose()

    assert ids_in(old) == [1]
    assert ids_in(path) == [2]


async def test_deleted_file_is_followed_by_a_new_one(path: Path) -> None:
    """After the file is deleted the next event starts a new one."""
    sink = JsonlSink(path)
    await sink.emit(make_event(1))
    await asyncio.to_thread(path.unlink)
    await sink.emit(make_event(2))
    await sink.aclose()

    assert ids_in(path) == [2]


async def test_truncated_file_grows_from_its_end(path: Path) -> None:
    """A rotation that copies and truncates leaves no hole in the file."""
    sink = JsonlSink(path)
    await sink.emit_batch(make_events(3))
    os.truncate(path, 0)
    await sink.emit(make_event(4))
    await sink.aclose()

    assert ids_in(path) == [4]


async def test_tail_beyond_the_limit_is_not_read(path: Path) -> None:
    """Only the last 64 MiB of a long file are read for duplicates, so older events are written again."""
    old = make_event(1, context="x" * 40 * 2**20)
    recent = make_event(2, context="x" * 40 * 2**20)
    await record(path, old, recent)
    await record(path, recent, old, make_event(3))

    assert [event.event_id for event in read_jsonl(path)] == [1, 2, 1, 3]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("jsonl:///var/log/run.jsonl", "/var/log/run.jsonl", id="absolute"),
        pytest.param("jsonl:run.jsonl", "run.jsonl", id="relative"),
        pytest.param("jsonl:a/b%20c%3F.jsonl", "a/b c?.jsonl", id="quoted"),
        pytest.param("jsonl:run#1.jsonl?fsync=true", "run#1.jsonl", id="a number sign is no fragment"),
    ],
)
def test_url_names_the_file(url: str, expected: str) -> None:
    """The path stands between the scheme and the question mark."""
    assert Path(expected) == JsonlSink.from_url(url)._path


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param("jsonl:", "names no file", id="no path"),
        pytest.param("jsonl://run.jsonl", "names no file", id="a host"),
        pytest.param("jsonl:a?sync=true&x=", "no option sync, x; known: fsync", id="unknown options"),
        pytest.param("jsonl:a?fsync=maybe", "fsync=maybe is neither true nor false", id="no boolean"),
        pytest.param("jsonl:a?fsync", "fsync= is neither", id="no value"),
    ],
)
def test_wrong_url_is_refused(url: str, reason: str) -> None:
    """A URL without a file or with an unknown option is refused by name."""
    with pytest.raises(ValueError, match=reason):
        JsonlSink.from_url(url)
