"""Holding: keep what is in hand and try again, while something is away."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.sink import SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from consumers.progress import Progress
    from noetl_events.backoff import Backoff

_REMIND_AFTER: Final = 60.0
_LONGEST_WHEN_STOPPING: Final = 1.0

T = TypeVar("T")

log = structlog.get_logger()


class Hold:
    """
    The holding of one projector.

    Args:
        progress: is told what is away, and why.
        backoff: the waits between two attempts.

    """

    def __init__(self, progress: Progress, backoff: Backoff) -> None:
        self._progress = progress
        self._backoff = backoff
        self._hurried = asyncio.Event()

    def hurry(self) -> None:
        """Somebody waits for us to stop: try again soon from now on, whatever the back-off says."""
        self._hurried.set()

    async def until_back(self, part: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """
        Return what *attempt* returns, made again while *part* is away; one line in the log a minute.

        Raises:
            Exception: whatever *attempt* raises but `SinkUnavailable` and `NatsUnavailable`.

        """
        reminded = 0.0
        for wait in self._backoff.waits():
            self._progress.attempting = part
            try:
                result = await attempt()
            except (SinkUnavailable, NatsUnavailable) as exc:
                now = time.monotonic()
                rest = getattr(exc, "retry_after", None) or wait
                self._progress.hold(part, str(exc), rest)
                if now - reminded >= _REMIND_AFTER or not reminded:
                    reminded = now
                    log.warning("projector.holding", part=part, reason=str(exc))
                await self._pause(rest)
            else:
                self._progress.attempting = ""
                self.resume(part)
                return result
        raise AssertionError("the waits never end")

    def resume(self, part: str) -> None:
        """Note that *part* is back, if it was away."""
        if self._progress.holding:
            log.info("projector.resumed", part=part, seconds=round(self._progress.resume(), 3))

    async def _pause(self, seconds: float) -> None:
        if self._hurried.is_set():
            await asyncio.sleep(min(seconds, _LONGEST_WHEN_STOPPING))
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurried.wait()
