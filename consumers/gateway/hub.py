"""
The hub: a gateway process reads the stream once, for all of its clients.

The hub resumes behind the last message after every restart of NATS.  A stream that was recreated, or lost its end,
starts a new generation, because its sequences name other messages.  A ring keeps the last messages, encoded as
server-sent events, for all clients near the end of the stream.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from noetl_events.envelope import MalformedEvent, decode
from noetl_events.jetstream.consume.ephemeral import EphemeralConsumer
from noetl_events.jetstream.consume.history import read_new
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.message import delivery_of
from noetl_events.jetstream.streams import StreamPosition, show_stream
from noetl_events.retry import Backoff, Retry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.message import Message

HEARTBEAT: Final = b": still there\n\n"
"""A comment, which shows a client and its proxies that the connection works."""

RETRY: Final = b"retry: 1000\n\n"
"""Milliseconds that a client waits before it reconnects."""


class EncodedEvent(msgspec.Struct, frozen=True, gc=False):
    """
    A message, encoded once for all clients.

    Args:
        sequence: stream sequence of the message.
        execution_id: execution id of its event.
        event_type: type of its event.
        data: bytes to send; empty if the message is no event.

    """

    sequence: int
    execution_id: int
    event_type: str
    data: bytes


class EventFilter(msgspec.Struct, frozen=True):
    """
    A client's filter of events; by default it matches all.

    Args:
        execution_id: execution to match.
        event_types: types to match.

    """

    execution_id: int | None = None
    event_types: frozenset[str] = frozenset()

    def matches(self, event: EncodedEvent) -> bool:
        """Return whether the filter matches *event*."""
        return (self.execution_id is None or event.execution_id == self.execution_id) and (
            not self.event_types or event.event_type in self.event_types
        )


def encoded_event(message: Message) -> EncodedEvent:
    """Return the event in *message*, encoded; without data if the message is no event, and becomes a dead letter."""
    sequence = delivery_of(message).sequence
    try:
        event = decode(message.data)
    except MalformedEvent:
        return EncodedEvent(sequence, 0, "", b"")
    data = b"id: %d\ndata: %b\n\n" % (sequence, one_line(message.data))
    return EncodedEvent(sequence, event.execution_id, event.event_type, data)


def one_line(body: bytes) -> bytes:
    """Return JSON without line breaks, which occur only between its tokens, so a space is equivalent."""
    return body.replace(b"\n", b" ").replace(b"\r", b" ")


def control(name: str, **data: str | int) -> bytes:
    """Return a control event; it has no id, so a client resumes behind the last stored event."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))


_CHUNK: Final = 256 * 1024


class Ring:
    """
    A bounded buffer of the newest events.

    Args:
        max_events: largest number of events.
        max_bytes: largest size of their data.

    """

    def __init__(self, *, max_events: int = 20_000, max_bytes: int = 32 * 1024 * 1024) -> None:
        self.behind = 0
        """Sequence before the oldest event: every later event is in the ring."""
        self.position = 0
        """Sequence of the newest event, or the reader's position before the first event."""

        self._max_events = max_events
        self._max_bytes = max_bytes
        self._bytes = 0
        self._events: list[EncodedEvent] = []
        self._sequences: list[int] = []
        self._chunks: dict[tuple[EventFilter, int], tuple[bytes, int]] = {}

    def clear(self, *, behind: int) -> None:
        """Clear the ring, and start behind this sequence."""
        self.behind = self.position = behind
        self._bytes = 0
        self._events.clear()
        self._sequences.clear()
        self._chunks.clear()

    def add(self, events: Iterable[EncodedEvent]) -> None:
        """Add *events*, the next in order, and discard the oldest ones if the ring is full."""
        for event in events:
            self._events.append(event)
            self._sequences.append(event.sequence)
            self._bytes += len(event.data)
            self.position = event.sequence
        self._discard_oldest()
        self._chunks.clear()

    def chunk(self, wanted: EventFilter, position: int) -> tuple[bytes, int]:
        """
        Return the events behind *position* that *wanted* matches, and the new position.

        The result has a limited size, and is cached for all clients.
        """
        found = self._chunks.get((wanted, position))
        if found is None:
            found = self._chunks[wanted, position] = self._join(wanted, position)
        return found

    def _join(self, wanted: EventFilter, position: int) -> tuple[bytes, int]:
        parts, size = [], 0
        for index in range(bisect_right(self._sequences, position), len(self._events)):
            event = self._events[index]
            if wanted.matches(event):
                parts.append(event.data)
                size += len(event.data)
                if size >= _CHUNK:
                    return b"".join(parts), event.sequence
        return b"".join(parts), max(self.position, position)

    def _discard_oldest(self) -> None:
        # A quarter is discarded at once, because deleting the head of a list moves the rest.
        if len(self._events) <= self._max_events and self._bytes <= self._max_bytes:
            return
        count = 0
        while len(self._events) - count > 3 * self._max_events // 4 or self._bytes > 3 * self._max_bytes // 4:
            self._bytes -= len(self._events[count].data)
            count += 1
        self.behind = self._sequences[count - 1]
        del self._events[:count], self._sequences[:count]


_MAX_PAUSE: Final = 0.1
# A thousand clients are notified ten times a second, a single client two thousand times.
_PAUSE_PER_CLIENT: Final = 0.0001
_BUFFERED_BYTES: Final = 16 * 1024 * 1024
_PREFILLED: Final = 5_000
_WAITS: Final = Backoff(initial=0.1, maximum=5.0)

log = structlog.get_logger()


class Hub:
    """
    Read *stream* for all clients.

    Args:
        connection: connection to NATS; the caller closes it.
        stream: name of the stream.
        ring: buffer of the last messages.
        heartbeat: seconds between the server's heartbeats while idle; the server counts as gone after twice as long.

    """

    def __init__(
        self, connection: Connection, stream: str, ring: Ring | None = None, *, heartbeat: float = 2.0
    ) -> None:
        self.ring = ring or Ring()
        self.generation = 0
        """Number of incarnations of the stream seen so far; 0 before the first."""
        self.first = 0
        """First stream sequence at the start of the generation."""
        self.last = 0
        """Last known stream sequence, whether it was read or not."""
        self.clients = 0
        """Number of connected clients."""
        self.stopping = False
        self.reason = "starting"
        """Reason why the stream is not read; empty while it is."""
        self.failures = 0
        """Number of failed attempts to read the stream."""

        self._connection = connection
        self._stream = stream
        self._heartbeat = heartbeat
        self._known: StreamPosition | None = None
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Read until cancelled; retry with back-off after a failure, with the server's text in `reason`."""
        async for attempt in Retry(NatsUnavailable, backoff=_WAITS, log="hub", stream=self._stream):
            with attempt:
                await self._follow(attempt)
            self.failures += 1
            self.reason = str(attempt.error)

    def stop(self) -> None:
        """Disconnect the clients, which then reconnect to another gateway."""
        self.stopping = True
        self._notify()

    async def wait_for_change(self) -> None:
        """Return after the next change; the state must be checked right before, without an `await` in between."""
        await self._changed.wait()

    async def _follow(self, attempt: Retry) -> None:
        await self._check_stream()
        consumer = EphemeralConsumer(
            self._connection, self._stream, max_bytes=_BUFFERED_BYTES, heartbeat=self._heartbeat, follows=True
        )
        async with aclosing(read_new(consumer, attempt, start=self.ring.position + 1)) as batches:
            async for messages in batches:
                self.reason = ""
                self.ring.add([encoded_event(message) for message in messages])
                self._notify()
                # Clients write the new events during this pause.
                await asyncio.sleep(min(_MAX_PAUSE, self.clients * _PAUSE_PER_CLIENT))

    async def _check_stream(self) -> None:
        info = await show_stream(self._connection, self._stream)
        found = StreamPosition(str(info.created), info.state.last_seq)
        known = self._known and StreamPosition(self._known.created, max(self._known.last_seq, self.ring.position))
        if known is None or not found.still_has(known):
            # The first sequence of an empty stream is 0.
            self.first = max(info.state.first_seq, 1)
            self.generation += 1
            # Clients of a gateway that stopped reconnect all at once, a little behind the end, so the ring starts
            # before it.
            self.ring.clear(behind=max(self.first, info.state.last_seq - _PREFILLED + 1) - 1)
            if known is not None:
                log.error("hub.stream_replaced", stream=self._stream, created=found.created, last=found.last_seq)
        self._known, self.last = found, found.last_seq
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
