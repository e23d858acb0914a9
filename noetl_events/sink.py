"""
The sink contract: a destination for events is an `EventSink`, and its errors are instructions to the caller.

    Exception
    ├── SinkUnavailable   wait, then emit the same events again
    ├── EventsRejected    bury exactly these; every other event of the batch is stored
    └── ValueError
        └── UnknownSink   the URL names no sink: correct it

Anything else that escapes a sink is a bug, and stops the caller.

Beside the contract: sinks opened by URL, and the options of such a URL.
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
    - The same event emitted twice leaves what one emit leaves.
    - Two different events with one key `(execution_id, event_id)` are never taken for one: a destination that keeps one
      row a key rejects the later one as a conflict, any other destination keeps both.
    - Cancelled while emitting: the state is unknown, and emitting again is safe.
    - Whoever opens closes: a sink that was given a connection does not close it.

    `noetl_events.testing.SinkContract` holds a test of each promise.
    """

    async def emit(self, event: ExecutorEvent) -> None:
        """Store *event*: a batch of one."""

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """
        Store *events*; on return they are durable.

        Raises:
            SinkUnavailable: nothing is known of any of them; emit the same events again, later.
            EventsRejected: the events at the named places of the batch will never be taken, all others are durable.
            ValueError: an event has no `event_id` where the destination keys by it; nothing was stored.
            RuntimeError: the sink is closed.

        """

    async def aclose(self) -> None:
        """Finish what was accepted and release what was opened; safe before first use, and twice."""


class SinkUnavailable(Exception):
    """
    The destination cannot take anything now.

    Args:
        reason: for a log line and an operator.
        retry_after: seconds the destination asked for, or None; the attribute is at most five minutes, and None for
            what no destination can mean: a negative number, NaN, more than a year.

    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = _bounded(retry_after)
        self.event: ExecutorEvent | None = None
        """The event that `EventEmitter` could not emit, as it was stamped: emitting this one again is safe."""


def _bounded(retry_after: object) -> float | None:
    if isinstance(retry_after, int | float) and 0 <= retry_after <= _ABSURD_RETRY_AFTER:
        return min(float(retry_after), _LONGEST_RETRY_AFTER)
    return None


class EventsRejected(Exception):
    """
    Exactly these events will never be taken; every other event of the batch is durable.

    The place in the batch names a rejected event, because two events of one batch may have the same id.

    Args:
        reasons: the reason of each, by its place in the batch, from 0 up.
        conflicts: the places of those that are rejected because the destination has a different event with their key.
        parts: of a sink that emits to several, the rejection of each as it was raised.

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
        """The rejection of each destination, with its own reasons; this one alone if there is but one destination."""
        return tuple(part for each in self._parts for part in each.parts) or (self,)


class UnknownSink(ValueError):
    """A sink URL that names no sink, or one whose driver is not installed."""


def open_sink(url: str) -> EventSink:
    """
    Return the sink *url* names, as `sqlite:///events.db` or `postgresql://host/db`.

    Nothing is connected yet: the first emit does, and raises `SinkUnavailable` while the destination is away.
    Distributions add schemes through the entry-point group `noetl_events.sinks`: a callable that takes the URL.

    Raises:
        UnknownSink: no installed sink has this scheme, or its driver is missing.
        ValueError: the sink refuses the rest of the URL.

    """
    from importlib.metadata import entry_points  # noqa: PLC0415  (a third of the time of our import, rarely needed)

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
    Return the id of each event, for a sink that keys by it.

    Raises:
        ValueError: one has none.

    """
    ids = [event.event_id for event in events if event.event_id is not None]
    if len(ids) != len(events):
        raise ValueError("event_id: None cannot be stored idempotently; emit through EventEmitter or NatsSink")
    return ids


def read_options(scheme: str, query: str, known: Sequence[str]) -> dict[str, str]:
    """
    Return the options in *query*, the last of each name.

    Raises:
        ValueError: one of them is not *known*.

    """
    options = dict(parse_qsl(query, keep_blank_values=True, errors="strict"))
    unknown = sorted(options.keys() - set(known))
    if unknown and "@" in query:
        # What follows a ? in a password looks like an option, and is not for an error to show.
        raise ValueError(f"sink URL: {scheme}: an unknown option, or a ? in the password; write that ? as %3F")
    if unknown:
        raise ValueError(f"sink URL: {scheme} has no option {', '.join(unknown)}; known: {', '.join(known)}")
    return options
