"""Retries of one projector: keep the batch in flight and retry while a dependency is unavailable."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from noetl_events.jetstream.errors import NatsUnavailable, Refused
from noetl_events.retry import Retry
from noetl_events.sink import SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from consumers.projector.progress import Progress
    from noetl_events.retry import Backoff

T = TypeVar("T")


class Hold:
    """
    The retry loop of one projector.

    Args:
        progress: receives the name of the unavailable dependency and the reason.
        backoff: waits between two attempts.
        consumer: consumer of the projector, for the log.

    """

    def __init__(self, progress: Progress, backoff: Backoff, *, consumer: str = "") -> None:
        self._progress = progress
        self._backoff = backoff
        self._consumer = consumer
        self._stopping = asyncio.Event()
        self._retry: Retry | None = None

    def stop_soon(self) -> None:
        """Cap the waits between retries from now on, because shutdown was requested."""
        self._stopping.set()

    async def until_available(self, part: str, call: Callable[[], Awaitable[T]]) -> T:
        """
        Return the result of *call*, retried while *part* is unavailable; at most one log line per minute.

        Raises:
            Exception: any error of *call* except `SinkUnavailable` and `NatsUnavailable`.

        """
        away = (SinkUnavailable, NatsUnavailable)
        self._retry = Retry(
            away, backoff=self._backoff, stopping=self._stopping, log="projector", consumer=self._consumer, part=part
        )
        async for attempt in self._retry:
            self._progress.waiting_for = part
            with attempt:
                result = await call()
            if attempt.error:
                is_refused = isinstance(attempt.error, Refused)
                self._progress.refused += is_refused
                self._progress.hold("consumer" if is_refused else part, str(attempt.error), attempt.wait)
        self._progress.waiting_for = ""
        self.resume()
        return result

    def resume(self) -> None:
        """Record that the dependency is available again, before the attempt in progress ends."""
        if self._progress.holding and self._retry:
            self._progress.resume()
            self._retry.works()
