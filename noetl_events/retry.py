"""
The retry loop, and the waits between attempts.

    async for attempt in Retry(SinkUnavailable, patience=60.0, log="rebuild"):
        with attempt:
            await sink.emit_batch(batch)

An attempt without an exception ends the loop.  After a failed attempt there is a wait, then the next attempt.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_REMIND_AFTER: Final = 60.0
_LONGEST_WHEN_STOPPING: Final = 1.0
_CLOCK_TICK: Final = 0.001


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """
    Waits that double, with jitter so that replicas do not retry at the same time.

    Args:
        initial: most seconds of the first wait; the jitter subtracts up to half of it.
        maximum: most seconds of any wait, unless a destination asks for a longer one.

    """

    initial: float = 0.2
    maximum: float = 15.0

    def wait(self, failures: int, *, asked: float | None = None) -> float:
        """Return the seconds to wait after *failures* in a row, at least the seconds *asked* by a destination."""
        limit = min(self.maximum, self.initial * 2.0 ** min(failures - 1, 60))
        wait = random.uniform(limit / 2, limit)
        return wait if asked is None else max(wait, asked * random.uniform(1.0, 1.1))

    def waits(self) -> Iterator[float]:
        """Yield the seconds of successive waits, without end."""
        failures = 0
        while True:
            failures += 1
            yield self.wait(failures)


class Retry:
    """
    Attempts until one succeeds, each in a `with attempt:` block.

    The first failure is logged as `<log>.holding`, with a reminder each minute and when the class of the exception
    changes; the next success is logged as `<log>.resumed`.  After a failed attempt, the body of the loop can read
    `error` and `wait`.

    Args:
        errors: exceptions that are retried; others leave the loop.
        unless: subclasses of *errors* that leave the loop too.
        backoff: waits between attempts; the `retry_after` of an exception is a lower bound.
        patience: seconds after which a failure leaves the loop; the last attempt is made at that time.
        stopping: event set at shutdown; it ends the current wait, and limits later ones to a second.
        log: first word of the log events; empty for no log.
        values: further values of the log events.

    """

    def __init__(
        self,
        errors: type[Exception] | tuple[type[Exception], ...],
        *,
        unless: type[Exception] | tuple[type[Exception], ...] = (),
        backoff: Backoff | None = None,
        patience: float = math.inf,
        stopping: asyncio.Event | None = None,
        log: str = "",
        **values: object,
    ) -> None:
        self.attempts = 0
        """Number of attempts begun."""
        self.error: Exception | None = None
        """Exception of the last attempt; None after a success."""
        self.wait = 0.0
        """Seconds until the next attempt, after an *error*."""

        self._errors, self._unless = errors, unless
        self._backoff = backoff or Backoff()
        self._deadline = time.monotonic() + patience
        self._stopping = stopping
        self._log, self._values = log, values
        self._failures = 0
        self._failing_since: float | None = None
        self._working_since: float | None = None
        self._logged: tuple[type[Exception], float] | None = None

    def works(self) -> None:
        """
        Record that the current attempt works, for attempts that last until they fail, such as a subscription.

        The waits start again from the first one only after *maximum* seconds of work.  Otherwise an attempt that works
        for a moment each time would be retried at the pace of the first wait for ever.
        """
        now = time.monotonic()
        if self._failing_since is not None:
            self._log_event("info", "resumed", seconds=round(now - self._failing_since, 3))
        self._failing_since = self._logged = None
        if self._working_since is None:
            self._working_since = now

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Self:
        if self.attempts:
            if self.error is None:
                raise StopAsyncIteration
            await self._pause()
        self.attempts += 1
        return self

    def __enter__(self) -> None:
        self.error = None

    def __exit__(self, _: type[BaseException] | None, exc: BaseException | None, __: TracebackType | None) -> bool:
        if exc is None:
            self.works()
            return False
        if not isinstance(exc, self._errors) or isinstance(exc, self._unless):
            return False
        now = time.monotonic()
        if self._deadline - now < _CLOCK_TICK:
            return False
        self._fail(exc, now)
        return True

    def _fail(self, exc: Exception, now: float) -> None:
        if self._working_since is not None and now - self._working_since >= self._backoff.maximum:
            self._failures = 0
        self._working_since = None
        self._failures += 1
        self.error = exc
        wait = self._backoff.wait(self._failures, asked=getattr(exc, "retry_after", None))
        self.wait = min(wait, self._deadline - now)
        if self._failing_since is None:
            self._failing_since = now
        if self._logged is None or self._logged[0] is not type(exc) or now - self._logged[1] >= _REMIND_AFTER:
            self._logged = type(exc), now
            self._log_event("warning", "holding", reason=str(exc) or type(exc).__name__)

    def _log_event(self, level: str, what: str, **values: object) -> None:
        if self._log:
            import structlog  # noqa: PLC0415  (structlog loads rich, which `import noetl_events` avoids)

            getattr(structlog.get_logger(), level)(f"{self._log}.{what}", **values, **self._values)

    async def _pause(self) -> None:
        if self._stopping is None:
            await asyncio.sleep(self.wait)
        elif self._stopping.is_set():
            await asyncio.sleep(min(self.wait, _LONGEST_WHEN_STOPPING))
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.wait):
                    await self._stopping.wait()
