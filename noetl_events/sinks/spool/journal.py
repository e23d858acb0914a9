"""
Events on disk, in order: a single writer appends, a single reader follows, and whole files are removed behind it.

    <path>/lock                        held by the one who has it open
    <path>/000000000001.segment        records, oldest first
    <path>/000000000002.segment        ...
    <path>/000000000001.damaged        what stood behind a record that cannot be read, kept for you to look at
    <path>/progress.json               how far the records were handed over
    <path>/rejected.jsonl              events the destination will never take

Opening begins a new segment, so that nothing is ever written behind what a crash has torn.

Many writers share a sync: records that come in while a write is under way form the next write.

A record in a segment can be checked by itself:

    u32 length | u32 CRC-32 of the body | body            little-endian, the body is an event on the wire

No length is 0: blocks a file system never wrote read as zeros, and must not read as records.
"""

from __future__ import annotations

import asyncio
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
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

_HEAD: Final = struct.Struct("<II")
_HEADS: Final = re.compile(rb"(?s)(?=(?!\0\0\0)...\0)")
"""Where a record below 16 MiB may begin."""


def pack(body: bytes) -> bytes:
    """Return *body*, which is not empty, as a record."""
    return _HEAD.pack(len(body), crc32(body)) + body


def unpack(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each whole record of *data*: where it ends, and its body.  What is torn or damaged ends it."""
    start = 0
    while body := _body_at(data, start):
        start += _HEAD.size + len(body)
        yield start, body


def missing(data: bytes) -> int:
    """Return how many bytes the record begun in *data* still lacks, by its own length; 0 if it is all there."""
    if len(data) < _HEAD.size:
        return _HEAD.size - len(data)
    length: int = _HEAD.unpack_from(data)[0]
    return max(0, _HEAD.size + length - len(data))


def is_torn(rest: bytes) -> bool:
    """Return whether *rest*, which begins with no whole record, is what a write cut short leaves behind."""
    # A record that is longer than the rest was cut off, unless whole ones follow: then its length is what is damaged.
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
    A place between two records.

    Args:
        segment: number of its file.
        offset: bytes from the start of the file.

    """

    segment: int
    offset: int


class SpoolFull(SinkUnavailable):
    """The spool has its largest size: what it holds has to be handed over first."""


class Journal:
    """
    Open the journal at *path*, and create the folder but not the one it is in.

    Args:
        path: a folder of its own.
        max_bytes: of all segments; past that nothing is appended.
        segment_bytes: after which a new segment is begun.
        sync: makes durable what was written to the descriptor it is given.

    Raises:
        SinkUnavailable: another process has it open, or it cannot be opened.

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
            self._lock = _take_lock(path, sync)
            try:
                self._numbers = [number for number, _ in segments(path)]
                self._sizes = {number: file.stat().st_size for number, file in segments(path)}
                self._active = self._begin((self._numbers or [0])[-1] + 1)
            except OSError:
                os.close(self._lock)
                raise
        except BlockingIOError:
            raise SinkUnavailable(f"spool: {path}: another process has it open") from None
        except OSError as exc:
            raise SinkUnavailable(f"spool: {path}: {exc.strerror or exc}") from exc

    @property
    def start(self) -> Position:
        """Before the oldest record."""
        return Position(self._numbers[0], 0)

    @property
    def end(self) -> Position:
        """Behind the youngest record."""
        return Position(self._numbers[-1], self._sizes[self._numbers[-1]])

    @property
    def size(self) -> int:
        """Bytes in all segments."""
        return sum(self._sizes.values())

    def append(self, records: bytes) -> None:
        """
        Append *records* and make them durable.

        Raises:
            SpoolFull: there is no room for them; nothing was written.
            SinkUnavailable: the disk refuses them; the journal is as it was before.

        """
        if self.size + len(records) > self._max_bytes:
            raise SpoolFull(
                f"spool: {self._path} is full: {self.size} of {self._max_bytes} bytes wait to be handed over"
            )
        try:
            if self._sizes[self._numbers[-1]] >= self._segment_bytes:
                self._roll()
            self._active.append(records)
        except OSError as exc:
            raise SinkUnavailable(f"spool: {self._path}: {exc.strerror or exc}") from exc
        self._sizes[self._numbers[-1]] += len(records)

    def read(self, start: Position, limit: int) -> tuple[list[bytes], Position]:
        """
        Return at most *limit* bodies behind *start*, and where the last of them ends.

        None are returned at the end.  What is torn or damaged at the end of a segment is passed over, with a warning.
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
                # What is appended from now on must not stand behind the damage.
                self._roll()
            self._pass_over(position)
            position = Position(self._numbers[self._numbers.index(position.segment) + 1], 0)

    def trim(self, position: Position) -> None:
        """Delete the segments that end at or before *position*, but the one that is appended to."""
        while len(self._numbers) > 1 and (self._numbers[0], self._sizes[self._numbers[0]]) <= position:
            self._file(self._numbers[0]).unlink(missing_ok=True)
            del self._sizes[self._numbers.pop(0)]

    def make_room(self, position: Position) -> None:
        """
        Delete whatever can be of what stands before *position*.

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
        """Release the folder; safe twice."""
        self._active.close()
        with suppress(OSError):
            os.close(self._lock)

    def _begin(self, number: int) -> AppendFile:
        active = AppendFile(self._file(number), self._sync)
        self._numbers.append(number)
        self._sizes[number] = 0
        return active

    def _roll(self) -> None:
        previous, self._active = self._active, self._begin(self._numbers[-1] + 1)
        previous.close()

    def _file(self, number: int) -> Path:
        return self._path / f"{number:012}.segment"

    def _read_bytes(self, position: Position) -> bytes:
        """Return bytes from *position* on with at least one whole record, if there is one."""
        # Only what is synced: what is handed over must still be here after a power cut.
        left = max(0, self._sizes[position.segment] - position.offset)
        with self._file(position.segment).open("rb") as file:
            file.seek(position.offset)
            data = file.read(min(left, _READ_BYTES))
            return data + file.read(min(left - len(data), missing(data)))

    def _pass_over(self, position: Position) -> None:
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
        # Before the segment may be deleted: it is the only other copy.
        sync_file(damaged, self._sync)
        sync_file(self._path, self._sync)
        log.error("spool.damaged", path=str(self._file(position.segment)), offset=position.offset, bytes=len(rest))


def segments(path: Path) -> list[tuple[int, Path]]:
    """Return the segments of the journal at *path*, oldest first."""
    return sorted((int(file.stem), file) for file in path.glob("*.segment"))


def bodies(path: Path, start: Position) -> Iterator[bytes]:
    """Yield the bodies behind *start* without opening the journal, one segment in memory at a time."""
    for number, file in segments(path):
        if number >= start.segment:
            data = file.read_bytes()[start.offset if number == start.segment else 0 :]
            yield from (body for _, body in unpack(data))


def _take_lock(path: Path, sync: Callable[[int], None]) -> int:
    path.mkdir(exist_ok=True)
    # A folder whose name is not durable is lost with all that was synced in it.
    sync_file(path.parent, sync)
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


_LARGEST: Final = 16 * 2**20
"""Bytes that may wait for the next write; past that writers wait to join it."""


class GroupCommit:
    """
    Gather records.

    Args:
        append: makes one run of bytes durable.

    """

    def __init__(self, append: Callable[[bytes], Awaitable[None]]) -> None:
        self._append = append
        self._next = _Group()
        self._writing: asyncio.Task[None] | None = None

    async def write(self, records: bytes) -> None:
        """
        Return when *records* are durable; cancelled, they may be or not.

        Raises:
            SinkUnavailable: they are not.

        """
        while self._next.size > _LARGEST:
            await asyncio.wait([self._next.written])
        group = self._next
        group.add(records)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        await asyncio.shield(group.written)

    async def finish(self) -> None:
        """Return when nothing is under way."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def _write(self) -> None:
        try:
            while self._next.records:
                group, self._next = self._next, _Group()
                await self._commit(group)
        finally:
            self._writing = None

    async def _commit(self, group: _Group) -> None:
        try:
            await self._append(b"".join(group.records))
        except SinkUnavailable as exc:
            group.written.set_exception(exc)
            # Looked at, for all its writers may have been cancelled.
            group.written.exception()
        except BaseException:
            group.written.cancel()
            raise
        else:
            group.written.set_result(None)


class _Group:
    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.size = 0
        self.written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def add(self, records: bytes) -> None:
        self.records.append(records)
        self.size += len(records)
