"""A small disk, a file mounted through a loop device, that can fill up and lose power; needs root."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import subprocess
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

# EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH (fs/ext4/ext4.h): from here on nothing reaches the disk, neither
# the page cache nor the file system's own log.  Data that was not synced is lost, as in a power cut.
_SHUTDOWN, _WITHOUT_LOG = 0x8004587D, struct.pack("=I", 2)
_PATIENCE = 180.0


# A shell may lack the folders of the administrator's commands even for root.
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def can_mount() -> bool:
    """Return true if this process may mount a file."""
    tools = all(shutil.which(tool, path=_PATH) for tool in ("mkfs.ext4", "mount", "umount"))
    return tools and os.geteuid() == 0 and os.access("/dev/loop-control", os.W_OK)


class Disk:
    """
    An ext4 file system of *megabytes* at *folder*, which is created.

    Raises:
        subprocess.CalledProcessError: the file system cannot be created or mounted.

    """

    def __init__(self, folder: Path, *, megabytes: int = 128) -> None:
        self.folder = folder
        self._image = folder.with_suffix(".ext4")
        self._megabytes = megabytes
        self._ballast = folder / "ballast"

    def __enter__(self) -> Self:
        self.folder.mkdir()
        with self._image.open("wb") as image:
            image.truncate(self._megabytes * 2**20)
        _call("mkfs.ext4", "-q", "-F", self._image)
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        self.unmount()
        self._image.unlink()

    def mount(self) -> None:
        """Mount the disk with the synced data."""
        _call("mount", "-o", "loop", self._image, self.folder)

    def unmount(self) -> None:
        """Unmount the disk; processes with open files on it have ten seconds to end."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return _call("umount", self.folder)
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def cut_power(self) -> None:
        """Lose the data that was not synced; every later call fails with EIO until `unmount` and `mount`."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _WITHOUT_LOG)
        finally:
            os.close(descriptor)

    def fill(self) -> None:
        """Fill the disk to the last byte."""
        with self._ballast.open("ab", buffering=0) as ballast:
            for size in (2**20, 2**12, 1):
                _fill(ballast.fileno(), bytes(size))

    def free(self) -> None:
        """Free the space again."""
        self._ballast.unlink()


def _fill(descriptor: int, chunk: bytes) -> None:
    try:
        while os.write(descriptor, chunk):
            pass
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise


def _call(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PATH": _PATH})
