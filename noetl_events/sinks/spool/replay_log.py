"""
The replay log: the positions that a stream has acknowledged, each with the stream's end at that time.

    record           add an acknowledged position
    rewind           find a loss: return the position from which to forward again
    discard_older    drop what is older than the replay window

`ReplayLog` does no I/O and reads no clock; two functions read and write it as the file `progress.json`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import structlog
from msgspec import structs

from noetl_events.jetstream.streams import StreamPosition
from noetl_events.sinks.append_file import sync_file
from noetl_events.sinks.spool.journal import Position

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger()


class Checkpoint(msgspec.Struct, frozen=True):
    """
    An acknowledged position.

    Args:
        position: position of the journal; all records before it are acknowledged.
        at: time in seconds since the epoch.
        watermark: end of the stream after the acknowledgement; None if it is unknown.

    """

    position: Position
    at: float
    watermark: StreamPosition | None = None


class ReplayLog(msgspec.Struct):
    """
    The acknowledged positions of the replay window.

    Args:
        checkpoints: acknowledged positions, oldest first; a replay starts at the one before the loss.

    """

    checkpoints: list[Checkpoint] = msgspec.field(default_factory=list, name="marks")

    @property
    def position(self) -> Position | None:
        """Position after the last forwarded record; None before the first checkpoint."""
        return self.checkpoints[-1].position if self.checkpoints else None

    @property
    def knows_stream(self) -> bool:
        """True if the stream's end was ever known."""
        return any(checkpoint.watermark is not None for checkpoint in self.checkpoints)

    def record(self, checkpoint: Checkpoint, *, apart: float) -> None:
        """Add *checkpoint*, or replace the last one if that is less than *apart* seconds after the one before it."""
        if self._can_replace_last(checkpoint, apart):
            self.checkpoints[-1] = checkpoint
        else:
            self.checkpoints.append(checkpoint)

    def rewind(self, end: StreamPosition | None) -> Position | None:
        """
        Drop the checkpoints of lost events.

        Args:
            end: present end of the stream; None if it is unknown.

        Returns:
            The position from which to forward again; None if the stream has kept everything, as far as is known.

        """
        if end is None or not self._has_lost(end):
            return None
        oldest = self.checkpoints[0]
        while self.checkpoints:
            watermark = self.checkpoints[-1].watermark
            if watermark is not None and end.still_has(watermark):
                break
            self.checkpoints.pop()
        if not self.checkpoints:
            # The stream kept none of them.  Records before the oldest are older than the replay window: start there.
            self.checkpoints = [structs.replace(oldest, watermark=end)]
        return self.checkpoints[-1].position

    def discard_older(self, before: float) -> Position | None:
        """Drop the checkpoints before that time except the latest, and return its position: older records can go."""
        old = [checkpoint for checkpoint in self.checkpoints if checkpoint.at <= before]
        if not old:
            return None
        del self.checkpoints[: len(old) - 1]
        return old[-1].position

    def _can_replace_last(self, checkpoint: Checkpoint, apart: float) -> bool:
        # A checkpoint with a known end of the stream is never replaced by one without.
        if len(self.checkpoints) <= 1 or (self.checkpoints[-1].watermark is None) != (checkpoint.watermark is None):
            return False
        return self.checkpoints[-1].at - self.checkpoints[-2].at < apart

    def _has_lost(self, end: StreamPosition) -> bool:
        known = [checkpoint.watermark for checkpoint in self.checkpoints if checkpoint.watermark is not None]
        # Without a known end, the stream may have lost events before it was first asked.
        return not end.still_has(known[-1]) if known else bool(self.checkpoints)


def load_replay_log(file: Path) -> ReplayLog:
    """Return the log in *file*; if that is missing or unreadable, an empty one, so all records are forwarded again."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=ReplayLog)
    except FileNotFoundError:
        return ReplayLog()
    except (OSError, msgspec.MsgspecError) as exc:
        log.warning("spool.progress_lost", path=str(file), reason=str(exc))
        return ReplayLog()


def save_replay_log(replay_log: ReplayLog, file: Path) -> None:
    """Replace *file* atomically: after a crash it has the old or the new content."""
    fresh = file.with_suffix(".new")
    with fresh.open("wb") as opened:
        opened.write(msgspec.json.encode(replay_log))
        opened.flush()
        os.fsync(opened.fileno())
    fresh.replace(file)
    sync_file(file.parent, os.fsync)
