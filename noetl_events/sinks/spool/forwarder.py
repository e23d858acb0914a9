"""
Forward records from the journal to the inner sink, in order.

    read ─► emit ─► confirm ─┬─ the stream has kept everything: move on, save the progress, delete old records
             │ ▲             ├─ the check came too late to be sure: emit the same records again
             └─┘             └─ the stream has lost something: move back, read and emit again
          unavailable
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import structlog

from noetl_events.envelope import decode, encode
from noetl_events.jetstream.streams import HasStreamPosition
from noetl_events.json_values import MalformedEvent
from noetl_events.retry import Retry
from noetl_events.sink import EventsRejected, SinkUnavailable
from noetl_events.sinks.spool.rejected import append_rejected
from noetl_events.sinks.spool.replay_log import Checkpoint, load_replay_log, save_replay_log

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
"""Events forwarded at a time."""

_SMALLEST_PART: Final = 50
"""Events forwarded at a time after repeated failures."""

_CHECK_INTERVAL: Final = 5.0
"""
Seconds between two checks of the stream while there is nothing to forward.  A server takes longer than this to restart;
after a longer gap the stream may have lost messages, and later ones would hide the loss.
"""

_SAVE_INTERVAL: Final = 0.25
"""Seconds between two writes of the progress while there is more: a crash repeats the events of this time."""

_MOST_CHECKPOINTS: Final = 60
"""Most positions that are kept of the replay window: a replay starts at most a sixtieth of the window too early."""


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
        self._stream = inner if isinstance(inner, HasStreamPosition) else None
        self._path = path
        self._replay_window = replay_window
        self._backoff = backoff
        self._in_thread = in_thread
        self._clock = clock
        self._replay_log = load_replay_log(path / "progress.json")
        self.position: Position = self._replay_log.position or journal.start
        """Position before which all records are forwarded."""

        self._appended = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._part = _BATCH
        self._checked_at = 0.0

    def on_append(self) -> None:
        """Read the journal again, because records were appended."""
        self._caught_up.clear()
        self._appended.set()

    async def caught_up(self) -> None:
        """Return when all records are forwarded."""
        await self._caught_up.wait()

    async def run(self) -> None:
        """Forward until cancelled."""
        await self._confirm(self.position)
        save_at = 0.0
        while True:
            self._appended.clear()
            bodies, end = await self._retry_disk(self._journal.read, self.position, _BATCH)
            if bodies:
                await self._forward(bodies, end)
            else:
                self.position = end
            if not bodies or _now() >= save_at:
                await self._save_progress()
                save_at = _now() + _SAVE_INTERVAL
            if not bodies:
                await self._wait_for_records()

    async def _forward(self, bodies: list[bytes], end: Position) -> None:
        """Emit *bodies* and move to *end*, unless the stream may have lost events: those are then read again."""
        left = await self._decode(bodies)
        acknowledged_at: float | None = None
        async for attempt in Retry(SinkUnavailable, backoff=self._backoff, log="spool", events=len(left)):
            if attempt.error:
                # Uncertain messages are sent again slowly, to keep their order, so try fewer of them.
                self._part = max(min(self._part, len(bodies)) // 2, _SMALLEST_PART)
                # The stream may have lost events during the outage, and later ones would hide that, so check first.
                if not await self._confirm(self.position):
                    return
            with attempt:
                acknowledged_at = await self._emit_parts(left)
        if acknowledged_at is not None:
            self._part = _BATCH
            await self._confirm(end, acknowledged_at)

    async def _decode(self, bodies: list[bytes]) -> list[ExecutorEvent]:
        """Return the events in *bodies*; malformed ones are stored as rejected."""
        events: list[ExecutorEvent] = []
        malformed: list[tuple[str, str]] = []
        for body in bodies:
            try:
                events.append(decode(body))
            except MalformedEvent as exc:
                malformed.append((body.decode(errors="replace"), str(exc)))
        await self._store_rejected(malformed)
        return events

    async def _emit_parts(self, left: list[ExecutorEvent]) -> float | None:
        """
        Emit *left* in parts, and remove each part that is acknowledged.

        Returns:
            The time of the last acknowledgement; None if the stream may have lost events.

        """
        acknowledged_at = _now()
        while left:
            if _is_long_ago(self._checked_at) and not await self._confirm(self.position):
                return None
            acknowledged_at = await self._emit(left[: self._part])
            del left[: self._part]
            if left and not await self._confirm(self.position, acknowledged_at):
                return None
        return acknowledged_at

    async def _emit(self, events: list[ExecutorEvent]) -> float:
        """Emit *events*, store the rejected ones, and return the time of the acknowledgement."""
        reasons: dict[int, str] = {}
        try:
            await self._inner.emit_batch(events)
        except EventsRejected as exc:
            reasons = exc.reasons
        acknowledged_at = _now()
        await self._store_rejected([(encode(events[at]).decode(), reason) for at, reason in sorted(reasons.items())])
        return acknowledged_at

    async def _store_rejected(self, rejected: list[tuple[str, str]]) -> None:
        if rejected:
            await self._retry_disk(append_rejected, self._path / "rejected.jsonl", rejected)
            log.error("spool.rejected", events=len(rejected), reason=rejected[0][1])

    async def _confirm(self, upto: Position, acknowledged_at: float | None = None) -> bool:
        """
        Check the stream, and record that everything before *upto* is stored, or move back to what the stream has lost.

        Args:
            upto: position before which all records were acknowledged.
            acknowledged_at: time of the last acknowledgement, if the stream was not checked since.

        Returns:
            True if the stream has kept everything.

        """
        is_late = self._stream is not None and acknowledged_at is not None and _is_long_ago(acknowledged_at)
        end = None
        retry = Retry(SinkUnavailable, backoff=self._backoff, log="spool", part="stream")
        async for attempt in retry:
            self._checked_at = _now()
            with attempt:
                end = await self._end_of_stream()
        if (start := self._replay_log.rewind(end)) is not None:
            self.position = start
            log.warning("spool.replaying", segment=start.segment, offset=start.offset)
            return False
        # After a late answer the last events may be lost, so keep the position: later ones would hide the loss.
        is_sure = not is_late and retry.attempts == 1
        if is_sure:
            self.position = upto
        checkpoint = Checkpoint(self.position, self._clock(), end)
        self._replay_log.record(checkpoint, apart=self._replay_window / _MOST_CHECKPOINTS)
        return is_sure

    async def _end_of_stream(self) -> StreamPosition | None:
        if self._stream is None:
            return None
        try:
            return await self._stream.watermark()
        except SinkUnavailable as exc:
            if self._replay_log.knows_stream:
                raise
            log.debug("spool.cannot_watch", reason=exc.reason)
            return None

    async def _save_progress(self) -> None:
        try:
            await self._in_thread(self._save_and_trim)
        except OSError as exc:
            # Without the progress a crash repeats more events, which is no reason to stop forwarding.
            log.warning("spool.progress_not_saved", reason=exc.strerror or str(exc))

    def _save_and_trim(self) -> None:
        kept = 0.0 if self._stream is None else self._replay_window
        unneeded = self._replay_log.discard_older(self._clock() - kept)
        try:
            save_replay_log(self._replay_log, self._path / "progress.json")
        finally:
            # Delete records even if saving fails, because a full disk needs the room.
            if unneeded is not None:
                self._journal.trim(unneeded)

    async def _wait_for_records(self) -> None:
        """Return when records were appended; check the stream if that takes long."""
        if not self._appended.is_set():
            self._caught_up.set()
        try:
            async with asyncio.timeout(_CHECK_INTERVAL):
                await self._appended.wait()
        except TimeoutError:
            await self._confirm(self.position)

    async def _retry_disk(self, call: Callable[..., Any], *args: Any) -> Any:
        """Return the result of the blocking *call*, retried until the disk accepts it."""
        result = None
        async for attempt in Retry(OSError, backoff=self._backoff, log="spool", part="disk"):
            with attempt:
                result = await self._in_thread(call, *args)
        return result


def _now() -> float:
    return asyncio.get_running_loop().time()


def _is_long_ago(moment: float) -> bool:
    return _now() - moment > _CHECK_INTERVAL
