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


class FanoutSink:
    """
    Emit to all of *required* and *optional* at once.

    - Stored is what every required sink has stored.
    - While a required sink is away nothing is known of the batch: emit it again.  Those that have it store it once.
    - What a required sink rejects is rejected, and the reason says which one it was.  The others may have stored it.
    - What an optional sink does not take is lost to that sink alone: see `BestEffort`.
    - An event without id is refused, or each sink would give it another.

    Args:
        required: at least one; whoever opened them closes them.
        optional: likewise.
        patience: seconds an optional sink may take for a batch.
        owns_inner: close all of them with this one.

    Raises:
        ValueError: no sink is required.

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
            raise ValueError("fanout: no sink is required; stored would mean nothing")
        self._required = {_name("required", number, sink): sink for number, sink in enumerate(required, start=1)}
        names = {_name("optional", number, sink): sink for number, sink in enumerate(optional, start=1)}
        self._optional = {name: BestEffort(sink, name=name, patience=patience) for name, sink in names.items()}
        self._owned = [*required, *optional] if owns_inner else []
        self._in_flight = InFlight()
        self._closed = False

    @classmethod
    def from_url(cls, url: str) -> Self:
        """
        Open `fanout:?to=URL&to=URL&optional=URL`; each URL is any sink's, percent-encoded.

        Raises:
            ValueError: the URL says something else, or names no sink.

        """
        parts = urlsplit(url)
        options = parse_qsl(parts.query, keep_blank_values=True)
        if parts.netloc or parts.path or {name for name, _ in options} - {"to", "optional"}:
            raise ValueError("sink URL: write fanout:?to=URL&to=URL&optional=URL, each URL percent-encoded")
        required, optional = ([to for name, to in options if name == wanted] for wanted in ("to", "optional"))
        return cls([open_sink(to) for to in required], [open_sink(to) for to in optional], owns_inner=True)

    @property
    def missed(self) -> dict[str, int]:
        """How many events each optional sink has not taken."""
        return {name: effort.missed for name, effort in self._optional.items()}

    async def emit(self, event: ExecutorEvent) -> None:
        """Emit *event* to all."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Emit *events* to all; see `EventSink` for what is raised."""
        if self._closed:
            raise RuntimeError("FanoutSink is closed")
        require_ids(events)
        sinks: dict[str, EventSink | BestEffort] = {**self._required, **self._optional}
        with self._in_flight:
            # Each goes on to its end, also beside one that fails; cancelled, it waits until all have ended.
            outcomes = await asyncio.gather(
                *(sink.emit_batch(events) for sink in sinks.values()), return_exceptions=True
            )
        _raise_worst(dict(zip(sinks, outcomes, strict=True)))

    async def aclose(self) -> None:
        """Finish what was accepted, and close the sinks that are ours."""
        self._closed = True
        await self._in_flight.wait_for_none()
        failures = await asyncio.gather(*(sink.aclose() for sink in self._owned), return_exceptions=True)
        for failure in failures:
            if failure is not None:
                raise failure


def _name(group: str, number: int, sink: EventSink) -> str:
    return f"{type(sink).__name__} ({group} {number})"


def _raise_worst(outcomes: dict[str, BaseException | None]) -> None:
    """Raise a bug first, then an outage, then all rejections together."""
    away: list[SinkUnavailable] = []
    rejected: dict[int, str] = {}
    refused: set[int] = set()
    parts: list[EventsRejected] = []
    for name, outcome in outcomes.items():
        match outcome:
            case None:
                continue
            case SinkUnavailable():
                away.append(SinkUnavailable(f"{name}: {outcome.reason}", outcome.retry_after))
            case EventsRejected():
                parts += (_named(name, part) for part in outcome.parts)
                refused |= outcome.reasons.keys() - outcome.conflicts
                for place, reason in outcome.reasons.items():
                    before = f"{rejected[place]}; " if place in rejected else ""
                    rejected[place] = f"{before}{name}: {reason}"
            case _:
                raise outcome
    if away:
        waits = [one.retry_after for one in away if one.retry_after is not None]
        raise SinkUnavailable("; ".join(one.reason for one in away), max(waits, default=None))
    if rejected:
        # What any sink refuses for another reason is no conflict, whatever the others say of it.
        raise EventsRejected(rejected, conflicts=rejected.keys() - refused, parts=parts)


def _named(name: str, part: EventsRejected) -> EventsRejected:
    reasons = {place: f"{name}: {reason}" for place, reason in part.reasons.items()}
    return EventsRejected(reasons, conflicts=part.conflicts)
