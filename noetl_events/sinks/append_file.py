"""A file that only this process appends to, and on which a failed append leaves no trace."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class AppendFile:
    """
    Open *path* for appending, and create the file, but not its directory.

    Args:
        path: path of the file.
        sync: function that makes the data of a file descriptor durable.

    Raises:
        BlockingIOError: another process, or another `AppendFile` of this one, has the file open.
        OSError: the file cannot be opened.

    """

    def __init__(self, path: Path, sync: Callable[[int], None]) -> None:
        self._path = path
        self._sync = sync
        self._owed_length: int | None = None
        # Unbuffered, because a buffer left by a failed write would be written again by a later flush.
        self._file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._sync_found()
        except OSError:
            self._file.close()
            raise

    @property
    def length(self) -> int:
        """Length of the file in bytes."""
        return os.fstat(self._file.fileno()).st_size

    def is_moved(self) -> bool:
        """Return True if the path no longer leads to this file, because it was rotated or deleted."""
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            return True

    def append(self, data: bytes) -> None:
        """
        Append *data* and make it durable.

        Raises:
            OSError: the write failed, and the file is unchanged; if restoring it failed too, the next append does that.

        """
        self._restore()
        length = self.length
        try:
            self._write(data)
            self._sync(self._file.fileno())
        except OSError:
            self._owed_length = length
            with suppress(OSError):
                self._restore()
            raise

    def truncate(self, length: int) -> None:
        """Cut the file to its first *length* bytes, durably."""
        self._file.truncate(length)
        self._sync(self._file.fileno())

    def lines(self, last: int) -> Iterator[tuple[int, bytes]]:
        """Yield the end and the text of each line that begins in the *last* bytes."""
        # A duplicated descriptor has the same lock; it shares the position, which appending does not use.
        with open(os.dup(self._file.fileno()), "rb") as reader:  # noqa: PTH123  (a descriptor has no path)
            end = reader.seek(max(0, self.length - last - 1))
            if self.length > last:
                end += len(reader.readline())
            for line in reader:
                end += len(line)
                yield end, line

    def read(self, start: int, limit: int) -> bytes:
        """Return at most *limit* bytes from offset *start*."""
        return os.pread(self._file.fileno(), limit, start)

    def close(self) -> None:
        """Release the file and its lock; calling it twice is harmless."""
        if not self._file.closed:
            # Unlock explicitly: a child process forked meanwhile holds the same lock, and may outlive this close.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()

    def _sync_found(self) -> None:
        # Data of a killed writer can be read, but is lost in a power cut unless it is synced.
        self._sync(self._file.fileno())
        sync_file(self._path.parent, self._sync)

    def _write(self, data: bytes) -> None:
        # One write is usually enough; a disk that fills up returns a short count first, and its error for the next.
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def _restore(self) -> None:
        if self._owed_length is not None:
            self.truncate(min(self._owed_length, self.length))
            self._owed_length = None


def sync_file(path: Path, sync: Callable[[int], None]) -> None:
    """Make the file at *path* durable by *sync*, or for a directory the names in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)
