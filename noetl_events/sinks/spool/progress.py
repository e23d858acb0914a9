"""How far a journal was handed over, and how far the stream had come at each step of the last minutes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

import msgspec
import structlog
from msgspec import structs

from noetl_events.jetstream.streams import Watermark
from noetl_events.sinks.append_file import sync_file
from noetl_events.sinks.spool.journal import Position

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger()


class Mark(msgspec.Struct, frozen=True):
    """
    One step.

    Args:
        position: everything before it was acknowledged.
        at: seconds since the epoch.
        watermark: of the stream after the acknowledgement; None if it could not be asked.

    """

    position: Position
    at: float
    watermark: Watermark | None = None


class Progress(msgspec.Struct):
    """
    The steps of the replay window, oldest first.

    Args:
        marks: at most a hundred, whatever the window; between two of them a replay starts at the first.

    """

    marks: list[Mark] = []

    @classmethod
    def load(cls, file: Path) -> Self:
        """Return what *file* holds; without one, or with one that cannot be read, everything is handed over again."""
        try:
            return msgspec.json.decode(file.read_bytes(), type=cls)
        except FileNotFoundError:
            return cls()
        except (OSError, msgspec.MsgspecError) as exc:
            log.warning("spool.progress_lost", path=str(file), reason=str(exc))
            return cls()

    def save(self, file: Path) -> None:
        """Replace *file* in one step: a crash leaves the old one or the new one."""
        fresh = file.with_suffix(".new")
        with fresh.open("wb") as opened:
            opened.write(msgspec.json.encode(self))
            opened.flush()
            os.fsync(opened.fileno())
        fresh.replace(file)
        sync_file(file.parent, os.fsync)

    @property
    def position(self) -> Position | None:
        """Behind the youngest record handed over."""
        return self.marks[-1].position if self.marks else None

    def record(self, mark: Mark, *, apart: float) -> None:
        """Add *mark*; it takes the place of the last one when that came less than *apart* seconds after its own."""
        if self._can_replace_last(mark, apart):
            self.marks[-1] = mark
        else:
            self.marks.append(mark)

    def forget(self, before: float) -> Position | None:
        """Drop the marks before that time but the youngest of them; return up to where records are not needed."""
        old = [mark for mark in self.marks if mark.at <= before]
        if not old:
            return None
        del self.marks[: len(old) - 1]
        return old[-1].position

    @property
    def is_watched(self) -> bool:
        """Whether the stream could ever be asked."""
        return any(mark.watermark is not None for mark in self.marks)

    def is_contradicted(self, now: Watermark) -> bool:
        """Whether the stream may have lost something it had acknowledged: of before its first answer nobody knows."""
        known = [mark.watermark for mark in self.marks if mark.watermark is not None]
        return not now.has_kept(known[-1]) if known else bool(self.marks)

    def rewind(self, now: Watermark) -> Position | None:
        """Forget what the stream may have lost; return from where to hand over again, None for the oldest record."""
        oldest = self.marks[:1]
        while self.marks and not (self.marks[-1].watermark and now.has_kept(self.marks[-1].watermark)):
            self.marks.pop()
        # Of a stream that has nothing any more: what came before was acknowledged longer ago than the window.
        self.marks = self.marks or [structs.replace(mark, watermark=now) for mark in oldest]
        return self.position

    def _can_replace_last(self, mark: Mark, apart: float) -> bool:
        # What the stream was known to hold is never forgotten for a mark that knows nothing.
        if len(self.marks) <= 1 or (self.marks[-1].watermark is None) != (mark.watermark is None):
            return False
        return self.marks[-1].at - self.marks[-2].at < apart
