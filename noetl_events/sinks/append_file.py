"""A file this process alone appends to, on which a failed append leaves no trace."""

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
    Open *path* for appending, and create the file but not its directory.

    Args:
        path: where the file is.
        sync: makes durable what was written to the descriptor it is given.

    Raises:
        BlockingIOError: another process, or another `AppendFile` of this one, has it open.
        OSError: it cannot be opened.

    """

    def __init__(self, path: Path, sync: Callable[[int], None]) -> None:
        self._path = path
        self._sync = sync
        self._owed_length: int | None = None
        # Unbuffered: no buffer is left behind by a failed write, for a later flush to write once more.
        self._file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._sync_found()
        except OSError:
            self._file.close()
            raise

    @property
    def length(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._file.fileno()).st_size

    def is_moved(self) -> bool:
        """Return whether the path no longer leads to this file: it was rotated away, or deleted."""
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            return True

    def append(self, data: bytes) -> None:
        """
        Append *data* and make it durable.

        Raises:
            OSError: the file is as it was before; where even that failed, the next append restores it first.

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
        """Cut off what follows the first *length* bytes, durably."""
        self._file.truncate(length)
        self._sync(self._file.fileno())

    def lines(self, last: int) -> Iterator[tuple[int, bytes]]:
        """Yield each line that begins in the *last* bytes, after the offset of its end."""
        # A descriptor of its own with the same lock; appending does not look at the position they share.
        with open(os.dup(self._file.fileno()), "rb") as reader:  # noqa: PTH123  (a descriptor has no path)
            end = reader.seek(max(0, self.length - last - 1))
            if self.length > last:
                end += len(reader.readline())
            for line in reader:
                end += len(line)
                yield end, line

    def read(self, start: int, limit: int) -> bytes:
        """Return at most *limit* bytes from offset *start* on."""
        return os.pread(self._file.fileno(), limit, start)

    def close(self) -> None:
        """Release the file and its lock; safe twice."""
        if not self._file.closed:
            # Unlocked by name: a child process forked meanwhile holds the same lock, and may live on.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()

    def _sync_found(self) -> None:
        # What a writer that was killed had written can be read, and still be lost with the machine's power.
        self._sync(self._file.fileno())
        sync_file(self._path.parent, self._sync)

    def _write(self, data: bytes) -> None:
        # One call but for a disk that fills up, which answers with a short count first and with its reason next.
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def _restore(self) -> None:
        if self._owed_length is not None:
            self.truncate(min(self._owed_length, self.length))
            self._owed_length = None


def sync_file(path: Path, sync: Callable[[int], None]) -> None:
    """Make the file or the directory at *path* durable by *sync*; of a directory that is the names in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)
