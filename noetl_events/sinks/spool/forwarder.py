"""
Forward records from the journal to the inner sink, in order.

    read ─► emit_batch ─► check the stream ─┬─ it has kept everything: save the progress, delete old records
      ▲        │ unavailable: retry         └─ it has lost something: go back, forward again
      └────────┴────────────────────────────────────────────────────┘
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import structlog

from noetl_events.envelope import decode, encode
from noetl_events.jetstream.streams import HasStreamPosition
from noetl_events.json_values import MalformedEvent
from noetl_events.retry import Retry
from noetl_events.sink import EventsRejected, SinkUnavailable
from noetl_events.sinks.append_file import AppendFile
from noetl_events.sinks.spool.progress import Mark, Progress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.jetstream.streams import StreamPosition
    from noetl_events.retry import Backoff
    from noetl_events.sink import EventSink
    from noetl_events.sinks.spool.journal import Journal, Position

log = structlog.get_logger()

_BATCH: Final = 500
_SMALLEST: Final = 50
"""Events forwarded at a time, and the smallest number after repeated failures."""

_LOOK_ROUND: Final = 5.0
"""
Seconds between two checks of the stream while there is nothing to forward.  A server takes longer than this to restart;
after a longer gap the stream may have lost messages, and later ones would hide the loss.
"""

_SAVE_ROUND: Final = 0.25
"""Seconds between two writes of the progress while there is more: a crash repeats the events of this time."""

_MARKS: Final = 60


class Forwarder:
    """
    Forward the records of *journal* to *inner*, without end.

    Args:
        journal: open journal; its calls run through *in_thread*.
        inner: sink that receives the events, each at least once.
        path: folder of the journal.
        replay_window: seconds for which acknowledged records are kept, and forwarded again if the stream lost them.
        backoff: waits between two attempts.
        in_thread: function that runs a blocking call, one at a time.
        clock: function that returns seconds since the epoch.

    """

    def __init__(
        self,
        journal: Journal,
        inner: EventSink,
        path: Path,
        *,
        replay_window: float,
        backoff: Backoff,
        in_thread: Callable[..., Awaitable[Any]],
        clock: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._inner = inner
        self._path = path
        self._replay_window = replay_window
        self._backoff = backoff
        self._in_thread = in_thread
        self._clock = clock
        self._progress = Progress.load(path / "progress.json")
        self.position: Position = self._progress.position or journal.start
        self._appended = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._watched = isinstance(inner, HasStreamPosition)
        self._size = _BATCH
        self._save_at = 0.0
        self._looked_at = 0.0
        self._acknowledged_at = 0.0

    def notice(self) -> None:
        """Read the journal again, because records were appended."""
        self._caught_up.clear()
        self._appended.set()

    async def caught_up(self) -> None:
        """Return when all records are forwarded."""
        await self._caught_up.wait()

    async def run(self) -> None:
        """Forward until cancelled."""
        await self._look(self.position)
        while True:
            self._appended.clear()
            bodies, end = await self._insist(self._journal.read, self.position, _BATCH)
            if bodies:
                if await self._hand_over(bodies):
                    await self._look(end)
                if _now() >= self._save_at:
                    await self._save()
            else:
                self.position = end
                await self._save()
                await self._rest()

    async def _rest(self) -> None:
        if not self._appended.is_set():
            self._caught_up.set()
        try:
            async with asyncio.timeout(_LOOK_ROUND):
                await self._appended.wait()
        except TimeoutError:
            await self._look(self.position)

    async def _hand_over(self, bodies: list[bytes]) -> bool:
        """Emit *bodies*; return False if the stream may have lost events, which are then read again."""
        left, is_kept = await self._readable(bodies), False
        async for attempt in Retry(SinkUnavailable, backoff=self._backoff, log="spool", events=len(left)):
            # The stream may have lost events during the outage, and later ones would hide that, so check first.
            if attempt.error and not await self._look(self.position):
                return False
            with attempt:
                is_kept = await self._emit_in_parts(left)
            if attempt.error:
                # Uncertain messages are sent again slowly, to keep their order, so try fewer of them.
                self._size = max(min(self._size, len(bodies)) // 2, _SMALLEST)
        if is_kept:
            self._size = _BATCH
        return is_kept

    async def _emit_in_parts(self, left: list[ExecutorEvent]) -> bool:
        """Emit *left* in parts, and remove each emitted part from it; return True if the stream has kept them."""
        while left:
            if _is_long_ago(self._looked_at) and not await self._look(self.position):
                return False
            await self._emit(left[: self._size])
            del left[: self._size]
            if left and not await self._look(self.position):
                return False
        return True

    async def _emit(self, events: list[ExecutorEvent]) -> None:
        try:
            await self._inner.emit_batch(events)
        except EventsRejected as exc:
            self._acknowledged_at = _now()
            await self._keep([(_text(events[place]), reason) for place, reason in sorted(exc.reasons.items())])
        else:
            self._acknowledged_at = _now()

    async def _readable(self, bodies: list[bytes]) -> list[ExecutorEvent]:
        events: list[ExecutorEvent] = []
        for body in bodies:
            try:
                events.append(decode(body))
            except MalformedEvent as exc:
                await self._keep([(body.decode(errors="replace"), str(exc))])
        return events

    async def _keep(self, rejected: list[tuple[str, str]]) -> None:
        """Append *rejected* events, which the destination will never accept, to `rejected.jsonl`."""
        lines = [json.dumps({"reason": reason, "event": text}) + "\n" for text, reason in rejected]
        await self._insist(self._append_rejected, "".join(lines).encode())
        log.error("spool.rejected", events=len(rejected), reason=rejected[0][1])

    def _append_rejected(self, lines: bytes) -> None:
        with closing(AppendFile(self._path / "rejected.jsonl", os.fsync)) as file:
            # A power cut may have left half a line, so start a new one.
            is_torn = file.length and file.read(file.length - 1, 1) != b"\n"
            file.append(b"\n" + lines if is_torn else lines)

    async def _insist(self, call: Callable[..., Any], *args: Any) -> Any:
        """Return the result of the blocking *call*, retried until the disk accepts it."""
        result = None
        async for attempt in Retry(OSError, backoff=self._backoff, log="spool", part="disk"):
            with attempt:
                result = await self._in_thread(call, *args)
        return result

    async def _look(self, acknowledged: Position) -> bool:
        """
        Record that everything before *acknowledged* is stored, or go back if the stream may have lost events.

        Returns:
            True if the stream has kept everything.

        """
        sure, now = not self._is_stale(), None
        async for attempt in Retry(SinkUnavailable, backoff=self._backoff, log="spool", part="stream"):
            self._looked_at = _now()
            with attempt:
                now = await self._ask()
            sure = sure and attempt.error is None
        if now is not None and self._progress.is_contradicted(now):
            self.position = self._progress.rewind(now) or self._journal.start
            log.warning("spool.replaying", segment=self.position.segment, offset=self.position.offset)
            return False
        if sure:
            self.position = acknowledged
        # Otherwise the last acknowledged events may be lost, so keep the position: later events would hide the loss.
        self._progress.record(Mark(self.position, self._clock(), now), apart=self._replay_window / _MARKS)
        return sure

    def _is_stale(self) -> bool:
        """Return True if events were acknowledged long ago, and the stream was not checked since."""
        return self._watched and self._looked_at < self._acknowledged_at and _is_long_ago(self._acknowledged_at)

    async def _save(self) -> None:
        try:
            await self._in_thread(self._write_progress)
        except OSError as exc:
            # Without the progress a crash repeats more events, which is no reason to stop forwarding.
            log.warning("spool.progress_not_saved", reason=exc.strerror or str(exc))
        self._save_at = _now() + _SAVE_ROUND

    def _write_progress(self) -> None:
        kept = self._replay_window if self._watched else 0.0
        unneeded = self._progress.forget(self._clock() - kept)
        try:
            self._progress.save(self._path / "progress.json")
        finally:
            # Delete records even if saving fails, because a full disk needs the room.
            if unneeded is not None:
                self._journal.trim(unneeded)

    async def _ask(self) -> StreamPosition | None:
        if not isinstance(self._inner, HasStreamPosition):
            return None
        try:
            return await self._inner.watermark()
        except SinkUnavailable as exc:
            if self._progress.is_watched:
                raise
            log.debug("spool.cannot_watch", reason=exc.reason)
            return None


def _now() -> float:
    return asyncio.get_running_loop().time()


def _is_long_ago(moment: float) -> bool:
    return _now() - moment > _LOOK_ROUND


def _text(event: ExecutorEvent) -> str:
    return encode(event).decode()
