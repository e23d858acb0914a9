"""What a simulated projector writes to: a sink, a graveyard, and the notes of its trials, all of which may be away."""

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
"""Events refused for one and the same reason, from which on the projector holds and buries none."""

REJECTED: Final = "rejected"
FATAL: Final = "fatal"


class Table:
    """
    The destination: events by their place in the stream, in the order in which they came first, one of each id.

    Args:
        draw: every chance of this run.

    """

    def __init__(self, draw: Random) -> None:
        self.stored: dict[int, ExecutorEvent] = {}
        self.is_away = False
        self.is_flaky = False
        self.is_broken = False
        """Whether it refuses every event for one and the same reason."""

        self.refused: set[int] = set()
        """Places of sound events it refused, too few at a time to tell it from a fault of theirs."""

        self.draw = draw
        self._owners: dict[int | None, int] = {}

    def refuse(self, events: Sequence[ExecutorEvent]) -> dict[int, str]:
        """Refuse *events*, all for one reason."""
        self.refused |= set(map(place_in_stream, events)) if len(events) < ALIKE else set()
        return dict.fromkeys(range(len(events)), "no such column")

    def store(self, events: Sequence[ExecutorEvent]) -> tuple[dict[int, str], list[int]]:
        """Store what can be, and return the reasons for what cannot, and which of these are conflicts."""
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
    """Return the place of *event* in its stream, whatever id it has."""
    return int(event.step)


class TableSink:
    """
    The sink of one process.

    Args:
        table: it writes to.
        on_fatal: called when an event is written that kills the process.

    """

    def __init__(self, table: Table, on_fatal: Callable[[], None]) -> None:
        self._table = table
        self._on_fatal = on_fatal
        self.is_writing = False
        self.given_back_at = 0.0
        """When it was last away."""

    async def emit(self, event: ExecutorEvent) -> None:
        """Emit *event*."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Emit *events*, or fail: before, half-way, or after all was stored."""
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
            # What was on its way may still arrive, whoever waits for the answer.
            if draw.random() < 0.5 and not any(event.event_type == FATAL for event in events):
                table.store(events[: draw.randrange(len(events) + 1)])
            raise

    async def aclose(self) -> None:
        """Do nothing."""


class Keeping:
    """
    The streams of dead letters and of notes, by the calls our code makes to `noetl_events.jetstream.storage`.

    Args:
        draw: every chance of this run.

    """

    def __init__(self, draw: Random) -> None:
        self.letters: dict[str, dict[str, str]] = {}
        """The headers of each letter, by its id."""
        self.notes: dict[str, bytes] = {}
        self.is_flaky = False
        self.failed_at = 0.0
        """When it last did not answer."""

        self.noting: set[SimConnection] = set()
        """Who is in the midst of noting something."""

        self.on_note: Callable[[SimConnection], None] | None = None
        """Told, once, who is in the midst of it."""

        self._draw = draw

    async def store(
        self, connection: SimConnection, subject: str, payload: bytes, headers: dict[str, str], **_: str
    ) -> int:
        """Store a letter or a note, or fail before or after that."""
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
        """Return the note on *subject*."""
        await self._travel(connection)
        return self.notes.get(subject)

    async def _travel(self, connection: SimConnection) -> None:
        # Who asks has a connection that was closed for good replaced.
        await connection.client()
        await asyncio.sleep(self._draw.expovariate(300))
        if not connection.is_connected or (self.is_flaky and self._draw.random() < 0.2):
            self.failed_at = asyncio.get_running_loop().time()
            raise NatsUnavailable("no answer")
