"""A simulated disk: after a power cut, data that was not synced may be lost or damaged."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random
    from typing import Any, BinaryIO

# The files are in memory if possible, because thousands of runs need not wear out a disk.
MEMORY: Final = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # noqa: S108  (a private folder is created in it)

_IDS: Final = re.compile(rb'"event_id":(\d+)')


class Death(BaseException):
    """The process ended in the middle of a call, so no error handler runs any more."""


class Disk:
    """
    The disk below a real folder; syncs are only recorded.

    Args:
        draw: random generator of the run.
        folder: folder of the files; created by the code under test.
        tears: effects of a power cut on unsynced data, from cut, zeros and garbage.

    """

    def __init__(
        self, draw: Random, folder: Path, *, tears: Sequence[str] = ("cut", "cut", "zeros", "garbage")
    ) -> None:
        self.folder = folder
        self.refuses = 0.0
        """The probability that a write or a sync fails."""

        self.is_slow = False
        """True if a call takes seconds."""

        self.calls_to_live = 0
        """The number of writes and syncs until the process dies in one; 0 for never."""

        self.spoilt: dict[str, list[bytes]] = {}
        """The synced content from a flipped byte on, by file name."""

        self._draw = draw
        self._tears = tears
        self._synced: dict[int, bytes] = {}
        self._names: dict[str, int] = {}
        self._is_in_parent = False
        self._flips: dict[str, int] = {}

    def create(self) -> None:
        """Create the folder, durably."""
        self.folder.mkdir()
        self._is_in_parent = True

    def heal(self) -> None:
        """Let every later call succeed."""
        self.refuses, self.calls_to_live = 0.0, 0

    def sync(self, descriptor: int) -> None:
        """Sync the data of *descriptor*, or the names in a folder."""
        self._suffer()
        status = os.fstat(descriptor)
        if not stat.S_ISDIR(status.st_mode):
            self._synced[status.st_ino] = _content(descriptor)
            if self._flips and (name := _path_of(descriptor).readlink().name) in self._flips:
                self._spoil(name)
        elif os.path.samestat(status, self.folder.stat()):
            self._names = self._listed()
        else:
            self._is_in_parent = True

    def write(self, file: BinaryIO, data: bytes) -> None:
        """Append *data*, or a part of it and fail."""
        try:
            self._suffer()
        except BaseException:
            file.write(data[: self._draw.randint(0, len(data))])
            raise
        file.write(data)

    def cut_power(self) -> None:
        """Lose data that was not synced, or some of it; the processes with open files must be dead."""
        left = self._left()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._synced, self._names = {}, {}
        self._is_in_parent = self._is_in_parent or self._draw.random() < 0.5
        if self._is_in_parent:
            self._put(left)

    def flip(self, name: str, start: int, end: int) -> int:
        """Change a byte between two offsets of a file, and return its offset."""
        path, at = self.folder / name, self._draw.randrange(start, end)
        self._flips[name] = min(start, self._flips.get(name, start))
        self._spoil(name)
        content = bytearray(path.read_bytes())
        content[at] ^= self._draw.randint(1, 255)
        with path.open("r+b") as file:
            file.write(content)
            self._synced[os.fstat(file.fileno()).st_ino] = bytes(content)
        return at

    def synced(self, name: str) -> bytes:
        """Return the synced content of a file."""
        return self._synced.get((self.folder / name).stat().st_ino, b"")

    def _suffer(self) -> None:
        if self.calls_to_live:
            self.calls_to_live -= 1
            if not self.calls_to_live:
                raise Death
        if self._draw.random() < self.refuses:
            raise OSError(self._draw.choice([errno.ENOSPC, errno.EIO]), "the disk refuses")

    def _spoil(self, name: str) -> None:
        self.spoilt.setdefault(name, []).append((self.folder / name).read_bytes()[self._flips[name] :])

    def _listed(self) -> dict[str, int]:
        if not self.folder.exists():
            return {}
        with os.scandir(self.folder) as entries:
            return {entry.name: entry.inode() for entry in sorted(entries, key=lambda entry: entry.name)}

    def _left(self) -> dict[str, bytes]:
        """Return the content of each file that survives a power cut."""
        now, left = self._listed(), {}
        here = {inode: name for name, inode in now.items()}
        for name, inode in self._names_left(now).items():
            left[name] = self._left_of(inode, (self.folder / here[inode]).read_bytes() if inode in here else None)
        return left

    def _names_left(self, now: dict[str, int]) -> dict[str, int]:
        # Creations and deletions since the folder's last sync may be lost.
        names = sorted(now.keys() | self._names.keys())
        left = {name: self._draw.choice([now.get(name), self._names.get(name)]) for name in names}
        for name, inode in now.items():
            if inode in self._names.values() and self._names.get(name) != inode:
                # A rename is atomic: the file has the old name or the new one.
                left[name] = None
                left[name] = None if inode in left.values() else inode
        return {name: inode for name, inode in left.items() if inode is not None}

    def _left_of(self, inode: int, content: bytes | None) -> bytes:
        durable = self._synced.get(inode, b"")
        if content is None or content == durable:
            return durable
        if content.startswith(durable):
            return durable + self._torn(content[len(durable) :])
        return self._draw.choice([durable, content])

    def _torn(self, written: bytes) -> bytes:
        torn = bytearray(written[: self._draw.randint(0, len(written))])
        start, end = sorted(self._draw.randint(0, len(torn)) for _ in range(2))
        kind = self._draw.choice(self._tears)
        if kind == "zeros":
            torn[start:end] = bytes(end - start)
        elif kind == "garbage":
            torn[start:end] = self._draw.randbytes(end - start)
        return bytes(torn)

    def _put(self, files: dict[str, bytes]) -> None:
        self.folder.mkdir()
        for name, content in files.items():
            (self.folder / name).write_bytes(content)
            self._synced[(self.folder / name).stat().st_ino] = content
        self._names = self._listed()


def noting(files: list[BinaryIO]) -> Callable[[Any, int], None]:
    """Return a `flock` that adds locked and closable files to *files*."""

    def flock(descriptor: Any, operation: int) -> None:
        if hasattr(descriptor, "close") and operation != fcntl.LOCK_UN:
            files.append(descriptor)
        lock(descriptor, operation)

    lock = fcntl.flock
    return flock


def ids_in(content: bytes) -> list[int]:
    """Return the id of each event in *content*, readable or not."""
    return [int(found) for found in _IDS.findall(content)]


def _content(descriptor: int) -> bytes:
    # The file is opened by path, because the descriptor may be write-only.
    return _path_of(descriptor).read_bytes()


def _path_of(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}")
