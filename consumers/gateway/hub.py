"""
The hub: a gateway process reads the stream once, for all of its clients.

It goes on behind the last message through every restart of NATS.  A stream that was created again, or lost its end,
begins a new era: its sequences name other messages.  A ring keeps the last messages, as server-sent events, for all
clients that are near the end of the stream.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from noetl_events.envelope import MalformedEvent, decode
from noetl_events.jetstream.consume.ephemeral import EphemeralConsumer
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.message import delivery_of
from noetl_events.jetstream.streams import Watermark, show_stream
from noetl_events.retry import Backoff, Retry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.message import Message

HEARTBEAT: Final = b": still there\n\n"
RETRY: Final = b"retry: 1000\n\n"
"""How many milliseconds a client waits before it comes again."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """
    One message, encoded once for all clients.

    Args:
        sequence: in the stream.
        execution_id: of its event.
        event_type: of its event.
        data: the bytes on the wire; empty if the message is no event.

    """

    sequence: int
    execution_id: int
    event_type: str
    data: bytes


class Wanted(msgspec.Struct, frozen=True):
    """
    Which events a client wants; all by default.

    Args:
        execution_id: of this execution.
        event_types: of any of these types.

    """

    execution_id: int | None = None
    event_types: frozenset[str] = frozenset()

    def takes(self, frame: Frame) -> bool:
        """Whether *frame* is one of them."""
        return (self.execution_id is None or frame.execution_id == self.execution_id) and (
            not self.event_types or frame.event_type in self.event_types
        )


def frame_of(message: Message) -> Frame:
    """Return *message* as a frame; what is no event has no bytes: the projector buries it."""
    sequence = delivery_of(message).sequence
    try:
        event = decode(message.data)
    except MalformedEvent:
        return Frame(sequence, 0, "", b"")
    data = b"id: %d\ndata: %b\n\n" % (sequence, one_line(message.data))
    return Frame(sequence, event.execution_id, event.event_type, data)


def one_line(body: bytes) -> bytes:
    """Return JSON without line breaks: they stand between its tokens only, where a space is as good."""
    return body.replace(b"\n", b" ").replace(b"\r", b" ")


def control(name: str, **data: str | int) -> bytes:
    """Return an event that is not in the stream: it has no id, so that a client resumes behind the last one that is."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))


_CHUNK: Final = 256 * 1024


class Ring:
    """
    So many frames and bytes, at most.

    Args:
        max_frames: kept.
        max_bytes: of them.

    """

    def __init__(self, *, max_frames: int = 20_000, max_bytes: int = 32 * 1024 * 1024) -> None:
        self.behind = 0
        """Every frame behind this sequence is here."""
        self.position = 0
        """The sequence of the last frame, or where the reading stands."""

        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._bytes = 0
        self._frames: list[Frame] = []
        self._sequences: list[int] = []
        self._chunks: dict[tuple[Wanted, int], tuple[bytes, int]] = {}

    def begin(self, behind: int) -> None:
        """Forget everything, and begin behind this sequence."""
        self.behind = self.position = behind
        self._bytes = 0
        self._frames.clear()
        self._sequences.clear()
        self._chunks.clear()

    def add(self, frames: Iterable[Frame]) -> None:
        """Add *frames*, the next in order, and forget the oldest."""
        for frame in frames:
            self._frames.append(frame)
            self._sequences.append(frame.sequence)
            self._bytes += len(frame.data)
            self.position = frame.sequence
        self._forget()
        self._chunks.clear()

    def chunk(self, wanted: Wanted, position: int) -> tuple[bytes, int]:
        """Return what *wanted* takes of the next frames behind *position*, and the position then; made once for all."""
        found = self._chunks.get((wanted, position))
        if found is None:
            found = self._chunks[wanted, position] = self._join(wanted, position)
        return found

    def _join(self, wanted: Wanted, position: int) -> tuple[bytes, int]:
        parts, size = [], 0
        for index in range(bisect_right(self._sequences, position), len(self._frames)):
            frame = self._frames[index]
            if wanted.takes(frame):
                parts.append(frame.data)
                size += len(frame.data)
                if size >= _CHUNK:
                    return b"".join(parts), frame.sequence
        return b"".join(parts), max(self.position, position)

    def _forget(self) -> None:
        # A quarter at once: to take the head off a list moves all the rest.
        if len(self._frames) <= self._max_frames and self._bytes <= self._max_bytes:
            return
        count = 0
        while len(self._frames) - count > 3 * self._max_frames // 4 or self._bytes > 3 * self._max_bytes // 4:
            self._bytes -= len(self._frames[count].data)
            count += 1
        self.behind = self._sequences[count - 1]
        del self._frames[:count], self._sequences[:count]


_LIMIT: Final = 2_000
_MAX_PAUSE: Final = 0.1
# A thousand clients are woken ten times a second, one client two thousand times.
_PAUSE_PER_CLIENT: Final = 0.0001
_BUFFERED_BYTES: Final = 16 * 1024 * 1024
_PREFILLED: Final = 5_000
_WAITS: Final = Backoff(initial=0.1, maximum=5.0)

log = structlog.get_logger()


class Hub:
    """
    Read *stream* for all clients.

    Args:
        connection: to NATS; it stays open.
        stream: to read.
        ring: of the last messages.
        heartbeat: seconds between two signs of life of a quiet server; after twice as long it counts as gone.

    """

    def __init__(
        self, connection: Connection, stream: str, ring: Ring | None = None, *, heartbeat: float = 2.0
    ) -> None:
        self.ring = ring or Ring()
        self.era = 0
        """Counts the streams that had this name; 0 before the first was found."""
        self.first = 0
        """The first sequence the stream held when its era began."""
        self.last = 0
        """The last sequence the stream is known to have held, read or not."""
        self.clients = 0
        """Who listen now."""
        self.stopping = False
        self.reason = "starting"
        """Why it does not read; empty while it does."""
        self.failures = 0
        """Attempts to read that ended with a refusal or a lost connection."""

        self._connection = connection
        self._stream = stream
        self._heartbeat = heartbeat
        self._mark: Watermark | None = None
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Read until cancelled; a refusal is held with back-off, and `reason` has the server's words meanwhile."""
        async for attempt in Retry(NatsUnavailable, backoff=_WAITS, log="hub", stream=self._stream):
            with attempt:
                await self._follow(attempt)
            self.failures += 1
            self.reason = str(attempt.error)

    def stop(self) -> None:
        """Send the clients away; they come again, to whoever is here then."""
        self.stopping = True
        self._wake()

    @property
    def news(self) -> asyncio.Event:
        """Set when something has changed since it was asked for: ask first, then look, then wait."""
        return self._news

    async def _follow(self, attempt: Retry) -> None:
        await self._recognise()
        consumer = EphemeralConsumer(
            self._connection, self._stream, max_bytes=_BUFFERED_BYTES, heartbeat=self._heartbeat, follows=True
        )
        try:
            await consumer.open(start=self.ring.position + 1)
            # After a failure only an answer shows that it is over; without that, each attempt would look well at first.
            await consumer.begin(await_answer=self.failures > 0)
            attempt.works()
            self.reason = ""
            while True:
                self.ring.add([frame_of(message) for message in await consumer.pull(_LIMIT)])
                self._wake()
                # Clients write at once what came meanwhile.
                await asyncio.sleep(min(_MAX_PAUSE, self.clients * _PAUSE_PER_CLIENT))
        finally:
            await consumer.aclose()

    async def _recognise(self) -> None:
        info = await show_stream(self._connection, self._stream)
        mark = Watermark(str(info.created), info.state.last_seq)
        known = self._mark and Watermark(self._mark.created, max(self._mark.last_seq, self.ring.position))
        if known is None or not mark.has_kept(known):
            # An empty stream says 0.
            self.first = max(info.state.first_seq, 1)
            self.era += 1
            # Clients of a gateway that went away come all at once, a little behind the end.
            self.ring.begin(max(self.first, info.state.last_seq - _PREFILLED + 1) - 1)
            if known is not None:
                log.error("hub.stream_replaced", stream=self._stream, created=mark.created, last=mark.last_seq)
        self._mark, self.last = mark, mark.last_seq
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
