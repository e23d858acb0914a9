"""
The one loop that tries again, and how long it waits.

    async for attempt in Retry(SinkUnavailable, patience=60.0, log="rebuild"):
        with attempt:
            await sink.emit_batch(batch)

An attempt that ends without an exception ends the loop.  One that fails is followed by a wait and by the next attempt.
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
_LONGEST_WHEN_HURRIED: Final = 1.0
_CLOCK_TICK: Final = 0.001


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """
    Waits that double, each with jitter so that replicas do not come back together.

    Args:
        initial: seconds of the first wait, at most; the jitter takes up to half of it.
        maximum: seconds of any wait, at most, but one that a destination has asked for.

    """

    initial: float = 0.2
    maximum: float = 15.0

    def wait(self, failures: int, *, asked: float | None = None) -> float:
        """Return the seconds to wait after *failures* in a row, at least those a destination has *asked* for."""
        limit = min(self.maximum, self.initial * 2.0 ** min(failures - 1, 60))
        wait = random.uniform(limit / 2, limit)
        return wait if asked is None else max(wait, asked * random.uniform(1.0, 1.1))

    def waits(self) -> Iterator[float]:
        """Yield the seconds of one wait after the other, without end."""
        failures = 0
        while True:
            failures += 1
            yield self.wait(failures)


class Retry:
    """
    Attempts, each as `with attempt:`, until one succeeds.

    The first failure is logged as `<log>.holding`, with a reminder each minute and once more when its exception is of
    another class; the success after it as `<log>.resumed`.  Between failure and next attempt the body of the loop sees
    `error` and `wait`.

    Args:
        errors: exceptions after which it is tried again; any other one leaves the loop.
        unless: subclasses of *errors* that leave the loop all the same.
        backoff: the waits; the `retry_after` of an exception is the lower bound of one.
        patience: seconds after which a failure leaves the loop; the last attempt is made when they end.
        hurry: set by a caller that stops; it ends the wait under way, and later ones last a second at most.
        log: the first word of the log events; empty for none.
        values: further values of these events.

    """

    def __init__(
        self,
        errors: type[Exception] | tuple[type[Exception], ...],
        *,
        unless: type[Exception] | tuple[type[Exception], ...] = (),
        backoff: Backoff | None = None,
        patience: float = math.inf,
        hurry: asyncio.Event | None = None,
        log: str = "",
        **values: object,
    ) -> None:
        self.attempts = 0
        """Attempts begun, with the one under way."""
        self.error: Exception | None = None
        """The exception of the attempt that was made last; None while it succeeds."""
        self.wait = 0.0
        """Seconds until the next attempt, after an *error*."""

        self._errors, self._unless = errors, unless
        self._backoff = backoff or Backoff()
        self._deadline = time.monotonic() + patience
        self._hurry = hurry
        self._log, self._values = log, values
        self._failures = 0
        self._failing_since: float | None = None
        self._working_since: float | None = None
        self._said: tuple[type[Exception], float] | None = None

    def works(self) -> None:
        """
        Note that the attempt under way works: for one that lasts and fails in the end, as a subscription does.

        A later failure gets the first wait again only after *maximum* seconds of work: an attempt that works for a
        moment each time would else be made at the pace of the first wait for ever.
        """
        now = time.monotonic()
        if self._failing_since is not None:
            self._say("info", "resumed", seconds=round(now - self._failing_since, 3))
        self._failing_since = self._said = None
        if self._working_since is None:
            self._working_since = now

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Self:
        if self.attempts:
            if self.error is None:
                raise StopAsyncIteration
            await self._rest()
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
        if self._said is None or self._said[0] is not type(exc) or now - self._said[1] >= _REMIND_AFTER:
            self._said = type(exc), now
            self._say("warning", "holding", reason=str(exc) or type(exc).__name__)

    def _say(self, level: str, what: str, **values: object) -> None:
        if self._log:
            import structlog  # noqa: PLC0415  (it loads rich, which `import noetl_events` does without)

            getattr(structlog.get_logger(), level)(f"{self._log}.{what}", **values, **self._values)

    async def _rest(self) -> None:
        if self._hurry is None:
            await asyncio.sleep(self.wait)
        elif self._hurry.is_set():
            await asyncio.sleep(min(self.wait, _LONGEST_WHEN_HURRIED))
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.wait):
                    await self._hurry.wait()
