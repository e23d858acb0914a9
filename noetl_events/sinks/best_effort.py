"""Emitting to a sink that may miss events."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import structlog

from noetl_events.retry import Backoff
from noetl_events.sink import EventsRejected, SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.sink import EventSink

log = structlog.get_logger()

_LOG_EVERY: Final = 60.0
_RESTS: Final = Backoff(initial=2.0, maximum=10.0)


class BestEffort:
    """
    Emit to *sink* what it takes now; what it does not take is counted in `missed`, and logged once a minute.

    After a failure it is left alone for two seconds, doubled up to ten, or for as long as it asks for, whichever is
    longer: one that is away holds nobody.

    Args:
        sink: where to; it stays open.
        name: of it, for the log.
        patience: seconds it may take for a batch.
        now: a clock that never goes back.

    """

    def __init__(
        self, sink: EventSink, *, name: str, patience: float = 1.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.missed = 0
        self._sink = sink
        self._name = name
        self._patience = patience
        self._now = now
        self._failures = 0
        self._rests_until = self._silent_until = float("-inf")

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Emit *events*; raises only what is a bug of the sink."""
        if self._now() < self._rests_until:
            self._miss(len(events), "it was away a moment ago")
            return
        try:
            async with asyncio.timeout(self._patience):
                await self._sink.emit_batch(events)
        except EventsRejected as exc:
            self._failures = 0
            self._miss(len(exc.reasons), str(exc))
        except SinkUnavailable as exc:
            self._rest(exc.retry_after)
            self._miss(len(events), exc.reason)
        except TimeoutError:
            self._rest(None)
            self._miss(len(events), f"not within {self._patience} s")
        else:
            self._failures = 0

    def _rest(self, retry_after: float | None) -> None:
        self._failures += 1
        self._rests_until = self._now() + _RESTS.wait(self._failures, asked=retry_after)

    def _miss(self, events: int, reason: str) -> None:
        self.missed += events
        if self._now() >= self._silent_until:
            self._silent_until = self._now() + _LOG_EVERY
            log.warning("fanout.missed", sink=self._name, events=events, missed=self.missed, reason=reason)
