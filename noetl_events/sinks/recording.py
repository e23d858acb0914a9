"""A record of events in a directory, in segments."""

from __future__ import annotations

import fcntl
import os
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import structlog

from noetl_events.envelope import encode
from noetl_events.identity import message_id
from noetl_events.recent_ids import CAPACITY
from noetl_events.sink import SinkUnavailable
from noetl_events.sinks.jsonl import JsonlSink, path_of
from noetl_events.sinks.rotation import Rotation, read_rotation
from noetl_events.sinks.segments import CURRENT, compress, next_segment, read_recording, segments, sync_directory
from noetl_events.sinks.url_options import read_options

if TYPE_CHECKING:
    from typing import BinaryIO

    from noetl_events.sink import EventSink
    from noetl_events.sinks.append_file import AppendFile

log = structlog.get_logger()

_LOCK: Final = ".lock"
_OPTIONS: Final = ("rotate", "compress", "fsync")


class RecordingSink(JsonlSink):
    """
    Append events to `current.jsonl` in *directory*, and rename it `events-<number>.jsonl` once it is to end.

    A number, not a time or an id: the order of the segments is that of writing, whatever clocks say.  Otherwise as
    `JsonlSink`; doubles are known across segments.  A segment that cannot be finished now is finished later: its
    events are stored all the same.

    Args:
        directory: it has to exist, and one sink writes to it at a time.
        rotate: when a segment ends.  One that is old ends with the next emit, also after a restart; one to which nobody
            writes stays the current one.
        compress_finished: replace a finished segment by its `.gz`; the emit that finishes it waits for that.
        fsync: as `JsonlSink`.

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

    # What follows runs in the one thread that writes: nothing is appended while a segment is finished.

    def _append(self, lines: dict[bytes, bytes]) -> None:
        try:
            self._take_directory()
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
            # The lock is as old as the current segment: a process that comes later knows its age.
            os.utime(self._directory / _LOCK)
        return file

    def _is_old(self) -> bool:
        age = self._rotate.age
        return age is not None and time.time() - (self._directory / _LOCK).stat().st_mtime >= age

    def _take_directory(self) -> None:
        if self._lock is not None:
            return
        lock = (self._directory / _LOCK).open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._remember_segments()
        except BaseException:
            lock.close()
            raise
        self._lock = lock

    def _remember_segments(self) -> None:
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

    Options: `fsync`, `true` or `false`; of a recording also `rotate`, a size, an age or both, and `compress`, `gzip` or
    nothing.

    Raises:
        ValueError: the URL names neither, or has an option there is not.

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
