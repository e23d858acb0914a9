"""The simulated targets of a projector: a sink, dead letters and crash records, each of which may be unavailable."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from noetl_events import EventsRejected, SinkUnavailable
from noetl_events.jetstream.errors import NatsUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from noetl_events import ExecutorEvent
    from tests.simulation.network import SimConnection

ALIKE: Final = 2
"""The number of identical rejections from which on the projector retries instead of dead-lettering."""


class SinkBug(Exception):
    """An error outside of a sink's contract."""


REJECTED: Final = "rejected"
FATAL: Final = "fatal"


class Table:
    """
    The destination: events by their place in the stream, in the order of first arrival, one of each id.

    Args:
        draw: random generator of the run.

    """

    def __init__(self, draw: Random) -> None:
        self.stored: dict[int, ExecutorEvent] = {}
        self.is_away = False
        self.is_flaky = False
        self.is_broken = False
        """True if every event is rejected for the same reason."""

        self.unproven: set[int] = set()
        """The places at which the table raised before it had accepted an event of the process."""

        self.is_raising = False
        """True if every write raises `SinkBug`."""

        self.refused: set[int] = set()
        """The places of sound events that were rejected, too few at a time to reveal a broken destination."""

        self.draw = draw
        self._owners: dict[int | None, int] = {}

    def refuse(self, events: Sequence[ExecutorEvent]) -> dict[int, str]:
        """Reject *events*, all for one reason."""
        self.refused |= set(map(place_in_stream, events)) if len(events) < ALIKE else set()
        return dict.fromkeys(range(len(events)), "no such column")

    def store(self, events: Sequence[ExecutorEvent]) -> tuple[dict[int, str], list[int]]:
        """Store the valid events, and return the reasons of the rejections, and the conflicts among them."""
        reasons, conflicts = {}, []
        for place, event in enumerate(events):
            number = place_in_stream(event)
            if event.event_type == REJECTED:
                reasons[place] = f"reason {number}"
            elif self._owners.setdefault(event.event_id, number) != number:
                reasons[place] = "another event has this key"
                conflicts.append(place)
            else:
                self.stored.setdefault(number, event)
        return reasons, conflicts


def place_in_stream(event: ExecutorEvent) -> int:
    """Return the place of *event* in its stream, whatever its id."""
    return int(event.step)


class TableSink:
    """
    The sink of a process.

    Args:
        table: destination of the events.
        on_fatal: callback for an event that kills the process.
        has_accepted: function that returns True once the process has had an event accepted.

    """

    def __init__(self, table: Table, on_fatal: Callable[[], None], has_accepted: Callable[[], bool]) -> None:
        self._table = table
        self._on_fatal = on_fatal
        self._has_accepted = has_accepted
        self.is_writing = False
        self.given_back_at = 0.0
        """The time of the last outage."""

    async def emit(self, event: ExecutorEvent) -> None:
        """Emit *event*."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Emit *events*, or fail: before, during, or after the write."""
        self.is_writing = True
        try:
            await self._write(events)
        except SinkUnavailable:
            self.given_back_at = asyncio.get_running_loop().time()
            raise
        finally:
            self.is_writing = False

    async def _write(self, events: Sequence[ExecutorEvent]) -> None:
        await self._travel(events)
        table, draw = self._table, self._table.draw
        if table.is_away:
            raise SinkUnavailable("away", draw.choice([None, 0.1]))
        if table.is_raising:
            table.unproven |= set() if self._has_accepted() else set(map(place_in_stream, events))
            raise SinkBug("on purpose")
        if table.is_flaky and draw.random() < 0.3:
            table.store(events[: draw.randrange(len(events) + 1)])
            raise SinkUnavailable("the answer was lost")
        reasons, conflicts = (table.refuse(events), []) if table.is_broken else table.store(events)
        if reasons:
            raise EventsRejected(reasons, conflicts=conflicts)

    async def _travel(self, events: Sequence[ExecutorEvent]) -> None:
        table, draw = self._table, self._table.draw
        try:
            await asyncio.sleep(draw.expovariate(20))
            if any(event.event_type == FATAL for event in events):
                self._on_fatal()
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            # Events on their way may still arrive, even if the caller no longer waits.
            if draw.random() < 0.5 and not any(event.event_type == FATAL for event in events):
                table.store(events[: draw.randrange(len(events) + 1)])
            raise

    async def aclose(self) -> None:
        """Do nothing."""


class Keeping:
    """
    The streams of dead letters and crash records, with the functions of `noetl_events.jetstream.storage`.

    Args:
        draw: random generator of the run.

    """

    def __init__(self, draw: Random) -> None:
        self.letters: dict[str, dict[str, str]] = {}
        """The headers of each dead letter, by its id."""
        self.notes: dict[str, bytes] = {}
        self.is_flaky = False
        self.failed_at = 0.0
        """The time of the last request without an answer."""

        self.noting: set[SimConnection] = set()
        """The processes that are storing a crash record."""

        self.on_note: Callable[[SimConnection], None] | None = None
        """A callback for a process that is storing one, called once."""

        self._draw = draw

    async def store(
        self, connection: SimConnection, subject: str, payload: bytes, headers: dict[str, str], **_: str
    ) -> int:
        """Store a dead letter or a crash record, or fail before or after that."""
        self.noting.add(connection)
        try:
            await self._travel(connection)
            if headers:
                self.letters.setdefault(headers["Nats-Msg-Id"], headers)
            else:
                self._note(connection, subject, payload)
            await self._travel(connection)
        finally:
            self.noting.discard(connection)
        return 1

    def _note(self, connection: SimConnection, subject: str, payload: bytes) -> None:
        self.notes[subject] = payload
        on_note, self.on_note = self.on_note, None
        if on_note is not None:
            on_note(connection)

    async def last_payload(self, connection: SimConnection, _stream: str, subject: str) -> bytes | None:
        """Return the crash record on *subject*."""
        await self._travel(connection)
        return self.notes.get(subject)

    async def _travel(self, connection: SimConnection) -> None:
        # A request replaces a connection that was closed for good.
        await connection.client()
        await asyncio.sleep(self._draw.expovariate(300))
        if not connection.is_connected or (self.is_flaky and self._draw.random() < 0.2):
            self.failed_at = asyncio.get_running_loop().time()
            raise NatsUnavailable("no answer")
