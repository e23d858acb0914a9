"""
The one reading of the stream in a gateway process.

It goes on behind the last message through every restart of NATS.  A stream that was created again, or lost its end,
begins a new era: its sequences name other messages.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from consumers.gateway.frame import frame_of
from consumers.gateway.ring import Ring
from noetl_events.jetstream.ephemeral import EphemeralConsumer
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.topology import show_stream
from noetl_events.retry import Backoff, Retry
from noetl_events.spool.watermark import Watermark

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection

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
