"""The last messages of the stream, for all clients that are near its end."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from consumers.gateway.frame import Frame, Wanted

_CHUNK: Final = 256 * 1024


class Ring:
    """
    So many frames and bytes, at most.

    Args:
        max_frames: kept.
        max_bytes: of them.

    """

    def __init__(self, *, max_frames: int = 20_000, max_bytes: int = 32 * 1024 * 1024) -> None:
        self.behind = 0
        """Every frame behind this sequence is here."""
        self.position = 0
        """The sequence of the last frame, or where the reading stands."""

        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._bytes = 0
        self._frames: list[Frame] = []
        self._sequences: list[int] = []
        self._chunks: dict[tuple[Wanted, int], tuple[bytes, int]] = {}

    def begin(self, behind: int) -> None:
        """Forget everything, and begin behind this sequence."""
        self.behind = self.position = behind
        self._bytes = 0
        self._frames.clear()
        self._sequences.clear()
        self._chunks.clear()

    def add(self, frames: Iterable[Frame]) -> None:
        """Add *frames*, the next in order, and forget the oldest."""
        for frame in frames:
            self._frames.append(frame)
            self._sequences.append(frame.sequence)
            self._bytes += len(frame.data)
            self.position = frame.sequence
        self._forget()
        self._chunks.clear()

    def chunk(self, wanted: Wanted, position: int) -> tuple[bytes, int]:
        """Return what *wanted* takes of the next frames behind *position*, and the position then; made once for all."""
        found = self._chunks.get((wanted, position))
        if found is None:
            found = self._chunks[wanted, position] = self._join(wanted, position)
        return found

    def _join(self, wanted: Wanted, position: int) -> tuple[bytes, int]:
        parts, size = [], 0
        for index in range(bisect_right(self._sequences, position), len(self._frames)):
            frame = self._frames[index]
            if wanted.takes(frame):
                parts.append(frame.data)
                size += len(frame.data)
                if size >= _CHUNK:
                    return b"".join(parts), frame.sequence
        return b"".join(parts), max(self.position, position)

    def _forget(self) -> None:
        # A quarter at once: to take the head off a list moves all the rest.
        if len(self._frames) <= self._max_frames and self._bytes <= self._max_bytes:
            return
        count = 0
        while len(self._frames) - count > 3 * self._max_frames // 4 or self._bytes > 3 * self._max_bytes // 4:
            self._bytes -= len(self._frames[count].data)
            count += 1
        self.behind = self._sequences[count - 1]
        del self._frames[:count], self._sequences[:count]
