"""
Events on disk, in order: one writer appends, one reader follows, and whole files are deleted behind the reader.

    <path>/lock                        locked by the process that has the journal open
    <path>/000000000001.segment        records, oldest first
    <path>/000000000002.segment        ...
    <path>/000000000001.damaged        the bytes after a damaged record, kept for an operator
    <path>/progress.json               the position up to which records were forwarded
    <path>/rejected.jsonl              events that the destination will never accept

Opening starts a new segment, so nothing is ever written after a record that a crash has torn.

Each record in a segment has its own checksum:

    u32 length | u32 CRC-32 of the body | body            little-endian, the body is an event in its wire form

No length is 0, because blocks that a file system never wrote read as zeros, and must not read as records.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

import structlog

from noetl_events.sink import SinkUnavailable
from noetl_events.sinks.append_file import AppendFile, sync_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_HEAD: Final = struct.Struct("<II")
_HEADS: Final = re.compile(rb"(?s)(?=(?!\0\0\0)...\0)")
"""Pattern for offsets where a record below 16 MiB may begin."""


def pack(body: bytes) -> bytes:
    """Return *body*, which is not empty, as a record."""
    return _HEAD.pack(len(body), crc32(body)) + body


def unpack(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the end and the body of each whole record in *data*, up to the first torn or damaged one."""
    start = 0
    while body := _body_at(data, start):
        start += _HEAD.size + len(body)
        yield start, body


def missing(data: bytes) -> int:
    """Return the number of bytes that the record at the start of *data* lacks, by its own length; 0 if it is whole."""
    if len(data) < _HEAD.size:
        return _HEAD.size - len(data)
    length: int = _HEAD.unpack_from(data)[0]
    return max(0, _HEAD.size + length - len(data))


def is_torn(rest: bytes) -> bool:
    """Return True if *rest*, which begins with no whole record, was left by an interrupted write."""
    # A record longer than the rest was cut off.  If whole records follow it, its length is damaged instead.
    is_cut = missing(rest) > 0 and not any(_body_at(rest, head.start()) for head in _HEADS.finditer(rest, 1))
    return is_cut or not rest.strip(b"\0")


def _body_at(data: bytes, start: int) -> bytes:
    if start + _HEAD.size > len(data):
        return b""
    length, checksum = _HEAD.unpack_from(data, start)
    if length > len(data) - start - _HEAD.size:
        return b""
    body = data[start + _HEAD.size : start + _HEAD.size + length]
    return body if len(body) == length and crc32(body) == checksum else b""


log = structlog.get_logger()

SEGMENT_BYTES: Final = 8 * 2**20
_READ_BYTES: Final = 2**20


class Position(NamedTuple):
    """
    A position between two records.

    Args:
        segment: number of the segment.
        offset: offset in bytes from the start of the segment's file.

    """

    segment: int
    offset: int


class SpoolFull(SinkUnavailable):
    """The spool has its maximum size, so its events have to be forwarded first."""


class Journal:
    """
    Open the journal at *path*, and create its folder, but not the parent folder.

    Args:
        path: folder of the journal.
        max_bytes: most bytes of all segments; at that size nothing is appended.
        segment_bytes: size of a segment after which a new one is started.
        sync: function that makes the data of a file descriptor durable.

    Raises:
        SinkUnavailable: another process has the journal open, or it cannot be opened.

    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        segment_bytes: int = SEGMENT_BYTES,
        sync: Callable[[int], None] = os.fsync,
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._sync = sync
        try:
            self._lock = _acquire_lock(path, sync)
            try:
                self._numbers = [number for number, _ in segments(path)]
                self._sizes = {number: file.stat().st_size for number, file in segments(path)}
                self._active = self._start_segment((self._numbers or [0])[-1] + 1)
            except OSError:
                os.close(self._lock)
                raise
        except BlockingIOError:
            raise SinkUnavailable(f"spool: {path}: another process has it open") from None
        except OSError as exc:
            raise SinkUnavailable(f"spool: {path}: {exc.strerror or exc}") from exc

    @property
    def start(self) -> Position:
        """Position before the oldest record."""
        return Position(self._numbers[0], 0)

    @property
    def end(self) -> Position:
        """Position after the youngest record."""
        return Position(self._numbers[-1], self._sizes[self._numbers[-1]])

    @property
    def size(self) -> int:
        """Number of bytes in all segments."""
        return sum(self._sizes.values())

    def append(self, records: bytes) -> None:
        """
        Append *records* and make them durable.

        Raises:
            SpoolFull: there is no room; nothing was written.
            SinkUnavailable: the disk refuses the write; the journal is unchanged.

        """
        if self.size + len(records) > self._max_bytes:
            raise SpoolFull(f"spool: {self._path} is full: {self.size} of {self._max_bytes} bytes wait to be forwarded")
        try:
            if self._sizes[self._numbers[-1]] >= self._segment_bytes:
                self._roll()
            self._active.append(records)
        except OSError as exc:
            raise SinkUnavailable(f"spool: {self._path}: {exc.strerror or exc}") from exc
        self._sizes[self._numbers[-1]] += len(records)

    def read(self, start: Position, limit: int) -> tuple[list[bytes], Position]:
        """
        Return at most *limit* bodies after *start*, and the end of the last of them.

        The list is empty at the end.  A torn or damaged end of a segment is skipped, with a warning.
        """
        position = start if start.segment in self._sizes else self.start
        while True:
            data = self._read_bytes(position)
            found = list(islice(unpack(data), limit))
            if found:
                return [body for _, body in found], Position(position.segment, position.offset + found[-1][0])
            if position >= self.end:
                return [], position
            if position.segment == self._numbers[-1]:
                # Start a new segment, so that later records do not follow the damage.
                self._roll()
            self._skip_damage(position)
            position = Position(self._numbers[self._numbers.index(position.segment) + 1], 0)

    def trim(self, position: Position) -> None:
        """Delete the segments that end at or before *position*, except the active one."""
        while len(self._numbers) > 1 and (self._numbers[0], self._sizes[self._numbers[0]]) <= position:
            self._file(self._numbers[0]).unlink(missing_ok=True)
            del self._sizes[self._numbers.pop(0)]

    def make_room(self, position: Position) -> None:
        """
        Delete everything before *position* that can be deleted.

        Raises:
            SinkUnavailable: the disk refuses to.

        """
        try:
            if position == self.end and position.offset:
                self._roll()
            self.trim(position)
        except OSError as exc:
            raise SinkUnavailable(f"spool: {self._path}: {exc.strerror or exc}") from exc

    def close(self) -> None:
        """Release the folder; calling it twice is harmless."""
        self._active.close()
        with suppress(OSError):
            os.close(self._lock)

    def _start_segment(self, number: int) -> AppendFile:
        active = AppendFile(self._file(number), self._sync)
        self._numbers.append(number)
        self._sizes[number] = 0
        return active

    def _roll(self) -> None:
        previous, self._active = self._active, self._start_segment(self._numbers[-1] + 1)
        previous.close()

    def _file(self, number: int) -> Path:
        return self._path / f"{number:012}.segment"

    def _read_bytes(self, position: Position) -> bytes:
        """Return bytes from *position* on, with at least one whole record if there is one."""
        # Only synced bytes are read, because a forwarded record must still exist after a power cut.
        left = max(0, self._sizes[position.segment] - position.offset)
        with self._file(position.segment).open("rb") as file:
            file.seek(position.offset)
            data = file.read(min(left, _READ_BYTES))
            return data + file.read(min(left - len(data), missing(data)))

    def _skip_damage(self, position: Position) -> None:
        with self._file(position.segment).open("rb") as file:
            file.seek(position.offset)
            rest = file.read()
        if not rest:
            return
        if is_torn(rest):
            log.warning("spool.tail_healed", path=str(self._file(position.segment)), bytes=len(rest))
            return
        damaged = self._file(position.segment).with_suffix(".damaged")
        damaged.write_bytes(rest)
        # Sync the copy before the segment may be deleted, because it is then the only one.
        sync_file(damaged, self._sync)
        sync_file(self._path, self._sync)
        log.error("spool.damaged", path=str(self._file(position.segment)), offset=position.offset, bytes=len(rest))


def segments(path: Path) -> list[tuple[int, Path]]:
    """Return the segments of the journal at *path*, oldest first."""
    return sorted((int(file.stem), file) for file in path.glob("*.segment"))


def bodies(path: Path, start: Position) -> Iterator[bytes]:
    """Yield the bodies after *start* without opening the journal, with one segment in memory at a time."""
    for number, file in segments(path):
        if number >= start.segment:
            data = file.read_bytes()[start.offset if number == start.segment else 0 :]
            yield from (body for _, body in unpack(data))


def _acquire_lock(path: Path, sync: Callable[[int], None]) -> int:
    path.mkdir(exist_ok=True)
    # Sync the parent folder, because a folder without a durable name is lost with its content.
    sync_file(path.parent, sync)
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
