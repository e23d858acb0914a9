"""
A clock that another process can set: the wall clock, and an offset in a file that the nemesis writes.

The clock has jitter, too: a machine's clock is adjusted constantly, and not always forwards.
"""

from __future__ import annotations

import mmap
import random
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_OFFSET = struct.Struct("d")
_TREMBLING_MS = 20


class ShiftedClock:
    """The wall clock, shifted by the seconds in *path*; a process with the file open sees a change at once."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(_OFFSET.pack(0.0))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _OFFSET.size)

    def seconds(self) -> float:
        """Return Unix seconds."""
        [offset] = _OFFSET.unpack(self._memory)
        return time.time() + float(offset)

    def milliseconds(self) -> int:
        """Return Unix milliseconds, less a small jitter."""
        return int(self.seconds() * 1_000) - random.randrange(_TREMBLING_MS)

    def shift(self, seconds: float) -> None:
        """Set the offset to *seconds* from now on."""
        self._memory[:] = _OFFSET.pack(seconds)
