"""A sink that passes events on to several sinks, some of which may miss events."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import parse_qsl, urlsplit

import structlog

from noetl_events.in_flight import InFlight
from noetl_events.retry import Backoff
from noetl_events.sink import EventsRejected, SinkUnavailable, open_sink, require_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.sink import EventSink

log = structlog.get_logger()

_LOG_EVERY: Final = 60.0
_WAITS: Final = Backoff(initial=2.0, maximum=10.0)


class BestEffort:
    """
    Emit to *sink* the events it accepts at once; count the others in `missed`, and log them once a minute.

    After a failure the sink is not used for two seconds, doubled up to ten, or for its own retry-after if that is
    longer, so an unavailable sink delays no emit.

    Args:
        sink: sink for the events; it is not closed here.
        name: name of the sink for the log.
        patience: timeout in seconds for a batch.
        now: monotonic clock.

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
        self._retry_at = self._log_at = float("-inf")

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Emit *events*; only bugs of the sink are raised."""
        if self._now() < self._retry_at:
            self._record_missed(len(events), "the sink was unavailable a moment ago")
            return
        try:
            async with asyncio.timeout(self._patience):
                await self._sink.emit_batch(events)
        except EventsRejected as exc:
            self._failures = 0
            self._record_missed(len(exc.reasons), str(exc))
        except SinkUnavailable as exc:
            self._back_off(exc.retry_after)
            self._record_missed(len(events), exc.reason)
        except TimeoutError:
            self._back_off(None)
            self._record_missed(len(events), f"no answer within {self._patience} s")
        else:
            self._failures = 0

    def _back_off(self, retry_after: float | None) -> None:
        self._failures += 1
        self._retry_at = self._now() + _WAITS.wait(self._failures, asked=retry_after)

    def _record_missed(self, events: int, reason: str) -> None:
        self.missed += events
        if self._now() >= self._log_at:
            self._log_at = self._now() + _LOG_EVERY
            log.warning("fanout.missed", sink=self._name, events=events, missed=self.missed, reason=reason)


class FanoutSink:
    """
    Emit to all of *required* and *optional* sinks concurrently.

    - An event is stored once every required sink has stored it.
    - If a required sink is unavailable, the outcome of the batch is unknown: emit it again.  Sinks that have it store
      it once.
    - If a required sink rejects an event, the event is rejected, and the reason names the sink.  Other sinks may have
      stored it.
    - If an optional sink does not accept an event, only that sink misses it: see `BestEffort`.
    - An event without an id is refused, because each sink would give it a different one.

    Args:
        required: sinks that have to store each event, at least one; they are closed only with *owns_inner*.
        optional: sinks that may miss events; they are closed only with *owns_inner*.
        patience: timeout in seconds of an optional sink for a batch.
        owns_inner: True to close all sinks with this one.

    Raises:
        ValueError: *required* is empty.

    """

    def __init__(
        self,
        required: Sequence[EventSink],
        optional: Sequence[EventSink] = (),
        *,
        patience: float = 1.0,
        owns_inner: bool = False,
    ) -> None:
        if not required:
            raise ValueError("fanout: no sink is required, so stored would mean nothing; require at least one")
        self._required = {_name("required", number, sink): sink for number, sink in enumerate(required, start=1)}
        names = {_name("optional", number, sink): sink for number, sink in enumerate(optional, start=1)}
        self._optional = {name: BestEffort(sink, name=name, patience=patience) for name, sink in names.items()}
        self._owned = [*required, *optional] if owns_inner else []
        self._in_flight = InFlight()
        self._closed = False

    @classmethod
    def from_url(cls, url: str) -> Self:
        """
        Open `fanout:?to=URL&to=URL&optional=URL`; each URL is that of any sink, percent-encoded.

        Raises:
            ValueError: the URL has another part or option, or names no sink.

        """
        parts = urlsplit(url)
        options = parse_qsl(parts.query, keep_blank_values=True)
        if parts.netloc or parts.path or {name for name, _ in options} - {"to", "optional"}:
            raise ValueError("sink URL: write fanout:?to=URL&to=URL&optional=URL, each URL percent-encoded")
        required, optional = ([to for name, to in options if name == wanted] for wanted in ("to", "optional"))
        return cls([open_sink(to) for to in required], [open_sink(to) for to in optional], owns_inner=True)

    @property
    def missed(self) -> dict[str, int]:
        """Number of events that each optional sink has missed."""
        return {name: effort.missed for name, effort in self._optional.items()}

    async def emit(self, event: ExecutorEvent) -> None:
        """Emit *event* to all sinks."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Emit *events* to all sinks; raises as `EventSink`."""
        if self._closed:
            raise RuntimeError("FanoutSink is closed")
        require_ids(events)
        sinks: dict[str, EventSink | BestEffort] = {**self._required, **self._optional}
        with self._in_flight:
            # Each call runs to its end even if another fails; a cancelled emit waits until all have ended.
            outcomes = await asyncio.gather(
                *(sink.emit_batch(events) for sink in sinks.values()), return_exceptions=True
            )
        _raise_outcome(dict(zip(sinks, outcomes, strict=True)))

    async def aclose(self) -> None:
        """Finish accepted calls, and close the sinks that this one owns."""
        self._closed = True
        await self._in_flight.wait_for_none()
        failures = await asyncio.gather(*(sink.aclose() for sink in self._owned), return_exceptions=True)
        for failure in failures:
            if failure is not None:
                raise failure


def _name(group: str, number: int, sink: EventSink) -> str:
    return f"{type(sink).__name__} ({group} {number})"


def _raise_outcome(outcomes: dict[str, BaseException | None]) -> None:
    """Raise a bug first, then an outage, then all rejections together."""
    outages: list[SinkUnavailable] = []
    rejected: dict[int, str] = {}
    refused: set[int] = set()
    parts: list[EventsRejected] = []
    for name, outcome in outcomes.items():
        match outcome:
            case None:
                continue
            case SinkUnavailable():
                outages.append(SinkUnavailable(f"{name}: {outcome.reason}", outcome.retry_after))
            case EventsRejected():
                parts += (_named(name, part) for part in outcome.parts)
                refused |= outcome.reasons.keys() - outcome.conflicts
                for place, reason in outcome.reasons.items():
                    before = f"{rejected[place]}; " if place in rejected else ""
                    rejected[place] = f"{before}{name}: {reason}"
            case _:
                raise outcome
    if outages:
        waits = [one.retry_after for one in outages if one.retry_after is not None]
        raise SinkUnavailable("; ".join(one.reason for one in outages), max(waits, default=None))
    if rejected:
        # An event that a sink refuses for another reason is no conflict, whatever the other sinks report.
        raise EventsRejected(rejected, conflicts=rejected.keys() - refused, parts=parts)


def _named(name: str, part: EventsRejected) -> EventsRejected:
    reasons = {place: f"{name}: {reason}" for place, reason in part.reasons.items()}
    return EventsRejected(reasons, conflicts=part.conflicts)
