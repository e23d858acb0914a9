"""
The sink contract: a destination for events is an `EventSink`, and its errors tell the caller what to do.

    Exception
    ├── SinkUnavailable   wait, then emit the same events again
    ├── EventsRejected    store exactly these as dead letters; every other event of the batch is stored
    └── ValueError
        └── UnknownSink   the URL names no sink: correct it

Any other error of a sink is a bug, and stops the caller.

This module also opens sinks by URL, and reads the options of such a URL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from noetl_events.envelope import ExecutorEvent


_LONGEST_RETRY_AFTER: Final = 300.0
_ABSURD_RETRY_AFTER: Final = 366 * 86_400.0


@runtime_checkable
class EventSink(Protocol):
    """
    A destination of events.

    - When `emit_batch` returns, every event of it is durable at the destination.
    - Emitting the same event twice has the effect of emitting it once.
    - Two different events with one key `(execution_id, event_id)` are never taken for one: a destination with one row
      for a key rejects the later one as a conflict, any other destination keeps both.
    - After a cancelled emit the outcome is unknown, and emitting again is safe.
    - A sink closes only what it has opened, so not a connection it was given.

    `noetl_events.testing.SinkContract` holds a test of each promise.
    """

    async def emit(self, event: ExecutorEvent) -> None:
        """Store *event*, as a batch of one."""

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """
        Store *events* durably before returning.

        Raises:
            SinkUnavailable: the outcome of all events is unknown; emit the same events again, later.
            EventsRejected: the events at the given indexes will never be accepted, all others are durable.
            ValueError: an event has no `event_id`, and the destination needs it; nothing was stored.
            RuntimeError: the sink is closed.

        """

    async def aclose(self) -> None:
        """Finish accepted calls, and release all resources; safe before first use, and twice."""


class SinkUnavailable(Exception):
    """
    The destination is unavailable at the moment.

    Args:
        reason: reason for a log line and an operator.
        retry_after: seconds that the destination asked for, or None.  The attribute is at most five minutes, and None
            for values that make no sense: a negative number, NaN, more than a year.

    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = _bounded(retry_after)
        self.event: ExecutorEvent | None = None
        """Stamped event that `EventEmitter` could not emit; emitting it again is safe."""


def _bounded(retry_after: object) -> float | None:
    if isinstance(retry_after, int | float) and 0 <= retry_after <= _ABSURD_RETRY_AFTER:
        return min(float(retry_after), _LONGEST_RETRY_AFTER)
    return None


class EventsRejected(Exception):
    """
    Exactly these events will never be accepted; every other event of the batch is durable.

    An event is identified by its index in the batch, because two events of one batch may have the same id.

    Args:
        reasons: reasons by index in the batch, from 0.
        conflicts: indexes of events rejected because the destination has a different event with their key.
        parts: rejections of each sink, for a sink that emits to several.

    """

    def __init__(
        self, reasons: Mapping[int, str], *, conflicts: Iterable[int] = (), parts: Iterable[EventsRejected] = ()
    ) -> None:
        super().__init__("; ".join(f"events[{place}]: {reason}" for place, reason in sorted(reasons.items())))
        self.reasons = dict(reasons)
        self.conflicts = frozenset(conflicts)
        self._parts = tuple(parts)

    @property
    def parts(self) -> tuple[EventsRejected, ...]:
        """Rejections of each destination, with their own reasons; only this one for a single destination."""
        return tuple(part for each in self._parts for part in each.parts) or (self,)


class UnknownSink(ValueError):
    """A sink URL that names no sink, or a sink without its driver installed."""


def open_sink(url: str) -> EventSink:
    """
    Return a sink for a URL such as `sqlite:///events.db` or `postgresql://host/db`.

    The first emit connects, and raises `SinkUnavailable` while the destination is unavailable.
    Distributions add schemes through the entry-point group `noetl_events.sinks`: a callable that takes the URL.

    Raises:
        UnknownSink: no installed sink has this scheme, or its driver is missing.
        ValueError: the sink refuses the rest of the URL.

    """
    from importlib.metadata import entry_points  # noqa: PLC0415  (a third of the import time, rarely needed)

    try:
        scheme = urlsplit(url).scheme
    except ValueError as exc:
        raise UnknownSink(f"sink URL: {exc}; write it as postgresql://host/db") from None
    known = entry_points(group="noetl_events.sinks")
    if scheme not in known.names:
        raise UnknownSink(f"sink URL: {scheme!r} is not a known scheme; known: {', '.join(sorted(known.names))}")
    try:
        opener = known[scheme].load()
    except ModuleNotFoundError as exc:
        raise UnknownSink(f"sink URL: {scheme!r} needs the module {exc.name!r}; install its extra") from exc
    sink: EventSink = opener(url)
    return sink


def require_ids(events: Sequence[ExecutorEvent]) -> list[int]:
    """
    Return the ids of *events*, for a sink that needs them.

    Raises:
        ValueError: an event has no id.

    """
    ids = [event.event_id for event in events if event.event_id is not None]
    if len(ids) != len(events):
        raise ValueError("event_id: None cannot be stored idempotently; emit through EventEmitter or NatsSink")
    return ids


def read_options(scheme: str, query: str, known: Sequence[str]) -> dict[str, str]:
    """
    Return the options in *query*; the last of a name counts.

    Raises:
        ValueError: an option is not *known*.

    """
    options = dict(parse_qsl(query, keep_blank_values=True, errors="strict"))
    unknown = sorted(options.keys() - set(known))
    if unknown and "@" in query:
        # The text after a ? in a password looks like an option, so the error must not show it.
        raise ValueError(f"sink URL: {scheme}: an unknown option, or a ? in the password; write that ? as %3F")
    if unknown:
        raise ValueError(f"sink URL: {scheme} has no option {', '.join(unknown)}; known: {', '.join(known)}")
    return options
