"""The progress of forwarding a journal, and the stream's end at each step of the last minutes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

import msgspec
import structlog
from msgspec import structs

from noetl_events.jetstream.streams import StreamPosition
from noetl_events.sinks.append_file import sync_file
from noetl_events.sinks.spool.journal import Position

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger()


class Mark(msgspec.Struct, frozen=True):
    """
    A step of the progress.

    Args:
        position: position of the journal; all records before it are acknowledged.
        at: time in seconds since the epoch.
        watermark: end of the stream after the acknowledgement; None if it is unknown.

    """

    position: Position
    at: float
    watermark: StreamPosition | None = None


class Progress(msgspec.Struct):
    """
    The steps of the replay window, oldest first.

    Args:
        marks: steps, at most a hundred for any window; a replay starts at the step before the loss.

    """

    marks: list[Mark] = []

    @classmethod
    def load(cls, file: Path) -> Self:
        """Return the progress in *file*; if it is missing or unreadable, all records are forwarded again."""
        try:
            return msgspec.json.decode(file.read_bytes(), type=cls)
        except FileNotFoundError:
            return cls()
        except (OSError, msgspec.MsgspecError) as exc:
            log.warning("spool.progress_lost", path=str(file), reason=str(exc))
            return cls()

    def save(self, file: Path) -> None:
        """Replace *file* atomically: after a crash it has the old or the new content."""
        fresh = file.with_suffix(".new")
        with fresh.open("wb") as opened:
            opened.write(msgspec.json.encode(self))
            opened.flush()
            os.fsync(opened.fileno())
        fresh.replace(file)
        sync_file(file.parent, os.fsync)

    @property
    def position(self) -> Position | None:
        """Position after the last forwarded record; None before the first step."""
        return self.marks[-1].position if self.marks else None

    def record(self, mark: Mark, *, apart: float) -> None:
        """Add *mark*, or replace the last one if that is less than *apart* seconds after the one before it."""
        if self._can_replace_last(mark, apart):
            self.marks[-1] = mark
        else:
            self.marks.append(mark)

    def forget(self, before: float) -> Position | None:
        """Drop the marks before that time except the latest, and return its position: older records can go."""
        old = [mark for mark in self.marks if mark.at <= before]
        if not old:
            return None
        del self.marks[: len(old) - 1]
        return old[-1].position

    @property
    def is_watched(self) -> bool:
        """True if the stream's end was ever known."""
        return any(mark.watermark is not None for mark in self.marks)

    def is_contradicted(self, now: StreamPosition) -> bool:
        """Return True if the stream may have lost acknowledged events, also if its end was not known before."""
        known = [mark.watermark for mark in self.marks if mark.watermark is not None]
        return not now.has_kept(known[-1]) if known else bool(self.marks)

    def rewind(self, now: StreamPosition) -> Position | None:
        """Drop the marks of lost events, and return the position to forward from; None for the oldest record."""
        oldest = self.marks[:1]
        while self.marks and not (self.marks[-1].watermark and now.has_kept(self.marks[-1].watermark)):
            self.marks.pop()
        # If the stream kept no mark, start at the oldest one: earlier records are older than the replay window.
        self.marks = self.marks or [structs.replace(mark, watermark=now) for mark in oldest]
        return self.position

    def _can_replace_last(self, mark: Mark, apart: float) -> bool:
        # A mark with a known end of the stream is never replaced by one without.
        if len(self.marks) <= 1 or (self.marks[-1].watermark is None) != (mark.watermark is None):
            return False
        return self.marks[-1].at - self.marks[-2].at < apart
