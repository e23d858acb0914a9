"""
A recording of events in a directory: `events-<number>.jsonl` or `events-<number>.jsonl.gz`, then `current.jsonl`.

A segment ends at its maximum size or age.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import re
import shutil
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec
import structlog

from noetl_events.envelope import encode
from noetl_events.identity import message_id
from noetl_events.ids import CAPACITY
from noetl_events.sink import SinkUnavailable, read_options
from noetl_events.sinks.jsonl import JsonlSink, path_of, read_jsonl
from noetl_events.sinks.lines import decode_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.sink import EventSink
    from noetl_events.sinks.append_file import AppendFile

CURRENT: Final = "current.jsonl"
_NAME: Final = re.compile(r"events-([0-9]{8,})\.jsonl(\.gz)?")


def segments(directory: Path) -> list[Path]:
    """Return the finished segments of *directory* in order, each once."""
    found: dict[int, Path] = {}
    # The plain file sorts after .gz and wins: if a crash left both, they have the same content.
    for path in sorted(directory.iterdir(), key=lambda path: path.suffix != ".gz"):
        if match := _NAME.fullmatch(path.name):
            found[int(match[1])] = path
    return [found[number] for number in sorted(found)]


def next_segment(directory: Path) -> Path:
    """Return the path of the next segment after the last one."""
    taken = segments(directory)
    match = _NAME.fullmatch(taken[-1].name) if taken else None
    return directory / f"events-{int(match[1]) + 1 if match else 1:08d}.jsonl"


def compress(path: Path) -> None:
    """
    Replace *path* by `path.gz`; one of the two exists at any time.

    Raises:
        OSError: the compression failed, and *path* is unchanged.

    """
    packed, unfinished = path.with_name(f"{path.name}.gz"), path.with_name(f"{path.name}.gz.part")
    with path.open("rb") as source, unfinished.open("wb") as target:
        with gzip.GzipFile(filename="", mode="wb", fileobj=target, compresslevel=6, mtime=0) as archive:
            shutil.copyfileobj(source, archive, 2**20)
        target.flush()
        os.fsync(target.fileno())
    unfinished.replace(packed)
    sync_directory(path.parent)
    path.unlink()


def sync_directory(directory: Path) -> None:
    """Make the names in *directory* durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_recording(path: str | os.PathLike[str]) -> Iterator[ExecutorEvent]:
    """
    Yield the events of a file, a `.gz` file, or a directory of them, in order.

    Raises:
        MalformedEvent: a line is no event; the message begins with `path:line number:`.
        OSError: a file cannot be read.

    """
    for file in _files(Path(path)):
        if file.suffix == ".gz":
            with gzip.open(file) as lines:
                yield from decode_lines(lines, str(file))
        else:
            yield from read_jsonl(file)


def count_lines(path: str | os.PathLike[str]) -> int:
    """Return the number of lines of a recording, which is about the number of events; raises OSError."""
    lines = 0
    for file in _files(Path(path)):
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            while chunk := opened.read(2**20):
                lines += chunk.count(b"\n")
    return lines


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    current = path / CURRENT
    return [*segments(path), *([current] if current.exists() else [])]


_BYTES: Final = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_PART: Final = re.compile(r"([1-9][0-9]{0,9})([A-Za-z]{0,3})")
_DEFAULT_BYTES: Final = 64 * 2**20


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """
    The limits of a segment; the first one reached ends it.

    Args:
        size: bytes, exceeded by at most a batch; None without a limit.
        age: seconds since its first event was written; None without a limit.

    """

    size: int | None = _DEFAULT_BYTES
    age: float | None = None


def read_rotation(value: str) -> Rotation:
    """
    Return the limits in `rotate=`: a size such as 100MiB, an age such as 1h, or both as 100MiB,1h; 64 MiB for "".

    Raises:
        ValueError: *value* is none of these, or has one of them twice.

    """
    if not value:
        return Rotation()
    limits: dict[str, int] = {}
    for part in value.split(","):
        name, limit = _read_part(part)
        if name in limits:
            raise ValueError(f"sink URL: rotate={value} gives the {name} twice")
        limits[name] = limit
    return Rotation(size=limits.get("size"), age=limits.get("age"))


def _read_part(part: str) -> tuple[str, int]:
    match = _PART.fullmatch(part)
    for name, units in (("size", _BYTES), ("age", _SECONDS)):
        if match is not None and match[2] in units:
            return name, int(match[1]) * units[match[2]]
    raise ValueError(f"sink URL: rotate={part} is neither a size such as 64MiB nor an age such as 1h")


log = structlog.get_logger()

_LOCK: Final = ".lock"
_OPTIONS: Final = ("rotate", "compress", "fsync")


class RecordingSink(JsonlSink):
    """
    Append events to `current.jsonl` in *directory*, and rename it `events-<number>.jsonl` when it is complete.

    The number keeps the segments in writing order, whatever clocks show.  Everything else is as for `JsonlSink`, and
    duplicates are found across segments.  If a segment cannot be finished, it is finished later; its events are stored.

    Args:
        directory: existing directory; only one sink writes to it at a time.
        rotate: limits of a segment.  A segment past its age ends with the next emit, also after a restart; without
            emits it stays the current one.
        compress_finished: True to replace a finished segment by its `.gz`; the emit that finishes it waits for that.
        fsync: as for `JsonlSink`.

    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        rotate: Rotation | None = None,
        compress_finished: bool = False,
        fsync: bool = True,
    ) -> None:
        super().__init__(Path(directory) / CURRENT, fsync=fsync)
        self._directory = Path(directory)
        self._rotate = rotate or Rotation()
        self._compress = compress_finished
        self._lock: BinaryIO | None = None

    # The methods below run in the writing thread, so nothing is appended while a segment is finished.

    def _append(self, lines: dict[bytes, bytes]) -> None:
        try:
            self._lock_directory()
        except OSError as exc:
            raise SinkUnavailable(f"jsonl: {self._directory}: {self._explain(exc)}") from exc
        super()._append(lines)
        if self._file is not None and self._rotate.size is not None and self._file.length >= self._rotate.size:
            self._finish_segment()

    def _open(self) -> AppendFile:
        file = super()._open()
        if file.length and self._is_old():
            self._finish_segment()
            file = super()._open()
        if not file.length:
            # The lock's time is the start of the current segment, so a later process knows its age.
            os.utime(self._directory / _LOCK)
        return file

    def _is_old(self) -> bool:
        age = self._rotate.age
        return age is not None and time.time() - (self._directory / _LOCK).stat().st_mtime >= age

    def _lock_directory(self) -> None:
        if self._lock is not None:
            return
        lock = (self._directory / _LOCK).open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._load_known()
        except BaseException:
            # Nothing else knows the lock yet, so release it here after any error.
            lock.close()
            raise
        self._lock = lock

    def _load_known(self) -> None:
        known: list[bytes] = []
        for segment in reversed(segments(self._directory)):
            if len(known) >= CAPACITY:
                break
            known = [
                message_id(event.event_id, encode(event))
                for event in read_recording(segment)
                if event.event_id is not None
            ] + known
        for message in islice(known, max(0, len(known) - CAPACITY), None):
            self._seen.add(message)

    def _finish_segment(self) -> None:
        try:
            segment = next_segment(self._directory)
            self._path.rename(segment)
            sync_directory(self._directory)
            if self._compress:
                compress(segment)
        except OSError as exc:
            log.warning("jsonl.segment_unfinished", path=str(self._path), reason=exc.strerror or str(exc))

    def _finish(self) -> None:
        super()._finish()
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._lock.close()
            self._lock = None


def open_jsonl(url: str) -> EventSink:
    """
    Open `jsonl:///file`, or with a slash at the end a recording in segments, `jsonl:///directory/?rotate=64MiB,1h`.

    Options: `fsync`, `true` or `false`; for a recording also `rotate`, a size, an age or both, and `compress`, `gzip`
    or empty.

    Raises:
        ValueError: the URL has no path, or an unknown option.

    """
    parts = urlsplit(url, allow_fragments=False)
    if not parts.path.endswith("/"):
        return JsonlSink.from_url(url)
    options = read_options("jsonl", parts.query, _OPTIONS)
    rotate, packing, fsync = (options.get(name, "") for name in _OPTIONS)
    if packing not in ("", "gzip") or fsync not in ("", "true", "false"):
        raise ValueError(f"sink URL: jsonl: compress={packing}, fsync={fsync}; compress is gzip, fsync true or false")
    return RecordingSink(
        path_of(url), rotate=read_rotation(rotate), compress_finished=packing == "gzip", fsync=fsync != "false"
    )
