"""A sink that records events in a file, one line each, and the reader of such a file."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import unquote, urlsplit

import structlog

from noetl_events.envelope import decode, encode
from noetl_events.identity import message_id
from noetl_events.ids import RecentIds
from noetl_events.json_values import MalformedEvent
from noetl_events.sink import EventsRejected, SinkUnavailable, read_options
from noetl_events.sinks.append_file import AppendFile
from noetl_events.sinks.lines import decode_lines, encode_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    from noetl_events.envelope import ExecutorEvent

log = structlog.get_logger()

_TAIL_BYTES: Final = 64 * 2**20
_FSYNC: Final = {"true": True, "false": False}
# macOS has no fdatasync.
_fdatasync = getattr(os, "fdatasync", os.fsync)


class JsonlSink:
    """
    Append each event to *path* as one line.

    The first emit opens the file, repairs it and reads its tail.  A missing directory is not created, because it may be
    a volume that is not mounted yet.

    - One writer at a time: a second one gets `SinkUnavailable` until the first is closed or its process has ended.
    - Duplicates are skipped among the last 65,536 events or 64 MiB, whichever is less.  Older ones are written again.
    - After a crash, an incomplete last line is removed with a warning; one that lacks only its newline is completed.
      A tail that no crash can have left is not changed: `SinkUnavailable` until an operator has repaired the file.
    - After a failed write the file is as long as before.
    - If the file is renamed or deleted, the next emit creates a new one at *path*, so any tool may rotate it.

    Args:
        path: path of the file; its extension has no meaning.
        fsync: False to let the kernel decide when to write: the death of the process loses nothing, a power cut loses
            the newest events.

    """

    def __init__(self, path: str | os.PathLike[str], *, fsync: bool = True) -> None:
        self._path = Path(path)
        self._sync = _fdatasync if fsync else _no_sync
        self._file: AppendFile | None = None
        self._seen = RecentIds()
        self._closed = False
        # A single thread keeps writes in the order of the calls, and a cancelled one ends before the next begins.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="jsonl")

    @classmethod
    def from_url(cls, url: str) -> Self:
        """
        Open `jsonl:///absolute/file.jsonl` or `jsonl:relative.jsonl`, optionally with `?fsync=false`.

        Raises:
            ValueError: the URL names no file, or has an unknown option.

        """
        return cls(path_of(url), fsync=_read_fsync(urlsplit(url, allow_fragments=False).query))

    async def emit(self, event: ExecutorEvent) -> None:
        """Append *event*."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Append *events* in one write; raises as `EventSink`."""
        if self._closed:
            raise RuntimeError("JsonlSink is closed")
        lines, reasons = encode_lines(events)
        if lines:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._append, lines)
        if reasons:
            raise EventsRejected(reasons)

    async def aclose(self) -> None:
        """Finish accepted calls, and release the file."""
        self._closed = True
        await asyncio.to_thread(self._finish)

    def _append(self, lines: dict[bytes, bytes]) -> None:
        try:
            file = self._open()
            new = {message: line for message, line in lines.items() if message not in self._seen}
            if new:
                file.append(b"".join(new.values()))
        except OSError as exc:
            raise SinkUnavailable(f"jsonl: {self._path}: {self._explain(exc)}") from exc
        for message in new:
            self._seen.add(message)

    def _open(self) -> AppendFile:
        if self._file is not None and self._file.is_moved():
            self._file.close()
            self._file = None
        if self._file is None:
            file = AppendFile(self._path, self._sync)
            try:
                self._repair_tail(file, _load_tail(file, self._seen))
            except BaseException:
                # Nothing else knows the file yet, so close it here after any error.
                file.close()
                raise
            self._file = file
        return self._file

    def _repair_tail(self, file: AppendFile, good: int) -> None:
        """Remove the bytes after *good*, the end of the last event, or complete its line."""
        torn = file.read(good, _TAIL_BYTES + 1)
        if not torn:
            if good and file.read(good - 1, 1) != b"\n":
                file.append(b"\n")
            return
        if not _is_left_by_crash(torn):
            raise SinkUnavailable(
                f"jsonl: {self._path}: no event after byte {good}, and not the trace of a crash; move the file away"
            )
        file.truncate(good)
        log.warning("jsonl.tail_healed", path=str(self._path), bytes=len(torn))

    def _explain(self, exc: OSError) -> str:
        if isinstance(exc, BlockingIOError):
            return "another writer has it open"
        if isinstance(exc, FileNotFoundError):
            return f"the directory {self._path.parent} is missing; create it"
        return exc.strerror or str(exc)

    def _finish(self) -> None:
        self._writer.shutdown()
        if self._file is not None:
            self._file.close()


def path_of(url: str) -> str:
    """
    Return the path in `jsonl:///absolute/file.jsonl` or `jsonl:relative.jsonl`.

    Raises:
        ValueError: *url* has no path.

    """
    parts = urlsplit(url, allow_fragments=False)
    if parts.netloc or not parts.path:
        raise ValueError(f"sink URL: {url!r} names no file; write jsonl:///absolute/file or jsonl:relative/file")
    return unquote(parts.path)


def read_jsonl(path: str | os.PathLike[str], *, strict: bool = True) -> Iterator[ExecutorEvent]:
    """
    Yield the events of the file at *path* in order, with one line in memory at a time.

    A torn last line, from a crash or a write in progress, is skipped.  Without *strict*, any other line that is no
    event is logged and skipped.

    Raises:
        MalformedEvent: a line is no event; the message begins with `path:line number:`.
        OSError: the file cannot be read.

    """
    with Path(path).open("rb") as file:
        yield from decode_lines(_whole_lines(file), str(path), strict=strict)


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    for line in file:
        if line.endswith(b"\n") or _is_event(line):
            yield line
        if not line.endswith(b"\n"):
            # A writer may have continued meanwhile, so the next read would return the rest of this line.
            return


def _load_tail(file: AppendFile, seen: RecentIds) -> int:
    """Add the events in the tail of *file* to *seen*, and return the end of the last one."""
    good = 0
    for end, line in file.lines(_TAIL_BYTES):
        try:
            event = decode(line) if line.strip() else None
        except MalformedEvent:
            continue
        good = end
        if event is not None and event.event_id is not None:
            seen.add(message_id(event.event_id, encode(event)))
    return good


def _is_event(line: bytes) -> bool:
    try:
        decode(line)
    except MalformedEvent:
        return False
    return True


def _is_left_by_crash(torn: bytes) -> bool:
    """Return True if *torn* is the start of one line of JSON, or unwritten blocks, which read as NUL."""
    begun = torn.startswith(b"{") and torn.find(b"\n") in (-1, len(torn) - 1)
    return len(torn) <= _TAIL_BYTES and (begun or b"\0" in torn)


def _read_fsync(query: str) -> bool:
    value = read_options("jsonl", query, ("fsync",)).get("fsync", "true")
    if value not in _FSYNC:
        raise ValueError(f"sink URL: fsync={value} is neither true nor false")
    return _FSYNC[value]


def _no_sync(_descriptor: int) -> None:
    """Do nothing: the kernel decides when to write."""
