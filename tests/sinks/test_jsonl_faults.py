"""JsonlSink after crashes, and on a failing disk."""

from __future__ import annotations

import asyncio
import errno
import random
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec import structs
from structlog.testing import capture_logs

import noetl_events
from noetl_events import SinkUnavailable, encode
from noetl_events.sinks.append_file import AppendFile
from noetl_events.sinks.jsonl import JsonlSink, read_jsonl
from noetl_events.testing import make_event, make_events
from tests.sinks.jsonl_file import content, ids_in, lines_of, record, write

if TYPE_CHECKING:
    from collections.abc import Iterator


ROOT = Path(noetl_events.__file__).parents[1]

CHILD = """
import asyncio, sys
from noetl_events.sinks.jsonl import JsonlSink
from noetl_events.testing import make_events

async def main(path, start):
    sink = JsonlSink(path)
    while True:
        await sink.emit_batch(make_events(7, start=start))
        print(start, flush=True)
        start += 7

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the file of this test."""
    return tmp_path / "run.jsonl"


@pytest.mark.parametrize("kept", range(1, len(encode(make_event(3))), 7))
async def test_torn_tail_is_cut_off_wherever_it_was_cut(path: Path, kept: int) -> None:
    """A last line cut anywhere by a crash is removed; the events before it stay, and the next one follows them."""
    torn = encode(make_event(3))[:kept]
    write(path, lines_of(*make_events(2)) + torn)
    with capture_logs() as logs:
        await record(path, *make_events(4))

    assert lines_of(*make_events(4)) == content(path)
    assert [{"event": "jsonl.tail_healed", "log_level": "warning", "path": str(path), "bytes": kept}] == logs


@pytest.mark.parametrize(
    "torn",
    [
        pytest.param(b'{"execution_id":1}\n', id="line with a newline that is no event"),
        pytest.param(b"\0" * 5000, id="block never written"),
        pytest.param(b"\0" * 100 + b'"}\n{"execution_id":1}\n', id="block never written, and what followed it"),
    ],
)
@pytest.mark.parametrize("before", [0, 2])
async def test_other_torn_tails_are_cut_off(path: Path, torn: bytes, before: int) -> None:
    """A tail as a power cut can leave it is removed, even if it is the whole file."""
    write(path, lines_of(*make_events(before)) + torn)
    await record(path, *make_events(3))

    assert lines_of(*make_events(3)) == content(path)


async def test_last_line_without_newline_is_completed(path: Path) -> None:
    """An event that lacks only its newline is kept, whatever program wrote it."""
    write(path, lines_of(*make_events(2))[:-1])
    await record(path, *make_events(3))

    assert lines_of(*make_events(3)) == content(path)


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(b"root:x:0:0:root:/root:/bin/sh\n", id="text"),
        pytest.param(b'{\n  "a": 1\n}\n', id="JSON over several lines"),
        pytest.param(b'{"level":"info"}\n{"level":"info"}\n', id="JSON lines that are no events"),
        pytest.param(lines_of(make_event(1)) + b"Traceback:\n  File\n", id="text after an event"),
    ],
)
async def test_foreign_file_is_not_changed(path: Path, found: bytes) -> None:
    """A tail of another program is kept, and the sink reports its offset."""
    write(path, found)
    with pytest.raises(SinkUnavailable, match=r"run\.jsonl: no event after byte \d+"):
        await record(path, make_event(5))

    assert found == content(path)


async def test_blank_lines_at_the_end_are_no_damage(path: Path) -> None:
    """Blank lines stay, and the lines after them can be read."""
    write(path, lines_of(make_event(1)) + b"\n\n")
    await record(path, make_event(2))

    assert [event.event_id for event in read_jsonl(path)] == [1, 2]


async def test_event_without_id_in_the_file_is_kept(path: Path) -> None:
    """A line without an id, as other writers leave it, is kept."""
    line = lines_of(structs.replace(make_event(1), event_id=None))
    write(path, line)
    await record(path, make_event(1))

    assert line + lines_of(make_event(1)) == content(path)


def kill_at_random(path: Path, start: int) -> list[int]:
    """Run a child that records from id *start*, kill it at a random time, and return its acknowledged batches."""
    command = [sys.executable, "-c", CHILD, str(path), str(start)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        try:
            acks = [int(child.stdout.readline()) for _ in range(random.randint(1, 60))]
        finally:
            child.kill()
        return acks + [int(line) for line in child.stdout if line.endswith(b"\n")]


async def test_killed_process_has_lost_nothing_it_acknowledged(path: Path) -> None:
    """After repeated kill -9 during writes every acknowledged event is in the file, once, in order."""
    acknowledged: list[int] = []
    start = 1
    for _ in range(4):
        acks = await asyncio.to_thread(kill_at_random, path, start)
        acknowledged += acks
        start = acks[-1] + 7
    await record(path, make_event(10**6))
    ids = ids_in(path)
    known = {event_id for event_id in ids if event_id is not None}

    assert all({*range(ack, ack + 7)} <= known for ack in acknowledged)
    assert sorted(known) == ids


# The tests below use a failing disk.


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Limit files to *size* bytes, so that a write fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_short_write_leaves_no_trace(path: Path) -> None:
    """A batch that only half fits on the disk leaves no bytes, and is written completely once there is room."""
    sink = JsonlSink(path)
    await sink.emit_batch(make_events(2))
    before = content(path)
    with file_size_limit(len(before) + 700), pytest.raises(SinkUnavailable, match=r"run\.jsonl: File too large"):
        await sink.emit_batch(make_events(10))
    after = content(path)
    await sink.emit_batch(make_events(10))
    await sink.aclose()

    assert before == after
    assert lines_of(*make_events(10)) == content(path)


def test_failed_sync_reverts_the_write(path: Path) -> None:
    """A write with a failed sync is removed, as a retry would otherwise take it for stored."""
    faults = iter([None, None, OSError(errno.EIO, "disk"), None, None])

    def sync(_descriptor: int) -> None:
        if (fault := next(faults)) is not None:
            raise fault

    file = AppendFile(path, sync)
    with pytest.raises(OSError, match="disk"):
        file.append(b"one\n")
    assert content(path) == b""
    file.append(b"two\n")
    file.close()

    assert content(path) == b"two\n"


def test_failed_revert_is_repeated_by_the_next_append(path: Path) -> None:
    """While even truncating fails, appends fail; then the file continues from its last good line."""
    failing = OSError(errno.EIO, "disk")
    faults = iter([None, None, None, failing, failing, failing, None, None])

    def sync(_descriptor: int) -> None:
        if (fault := next(faults)) is not None:
            raise fault

    file = AppendFile(path, sync)
    file.append(b"one\n")
    for data in (b"two\n", b"three\n"):
        with pytest.raises(OSError, match="disk"):
            file.append(data)
    file.append(b"four\n")
    file.close()

    assert content(path) == b"one\nfour\n"


async def test_missing_directory_is_named_and_not_created(tmp_path: Path) -> None:
    """A missing directory may be an unmounted volume: the sink waits for it, and works when it exists."""
    directory = tmp_path / "volume"
    sink = JsonlSink(directory / "run.jsonl")
    with pytest.raises(SinkUnavailable, match=r"the directory .*volume is missing"):
        await sink.emit(make_event(1))
    assert not directory.exists()
    directory.mkdir()
    await sink.emit(make_event(1))
    await sink.aclose()

    assert ids_in(directory / "run.jsonl") == [1]


async def test_directory_in_place_of_the_file_is_unavailable(tmp_path: Path) -> None:
    """A path that cannot be opened is SinkUnavailable with the system's reason."""
    with pytest.raises(SinkUnavailable, match="Is a directory"):
        await record(tmp_path, make_event(1))
