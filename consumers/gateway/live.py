"""
One client's way along the stream.

    its next message is in the ring       it gets it from there, with everybody else
    is older                              page by page from the stream, until the ring has what comes next
    is older, and it had caught up        it reads too slowly: `dropped`, and goodbye; it may resume
    is not in the stream any more         `resync`, and on with the first message there is
    is of a stream that was replaced      `resync`, and on with the first message of the new one
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from consumers.gateway.frame import RETRY, control, frame_of
from noetl_events.jetstream.errors import NatsUnavailable, StreamReplaced
from noetl_events.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from consumers.gateway.frame import Wanted
    from consumers.gateway.hub import Hub
    from consumers.gateway.past import Past

_AGAIN: Final = 0.5
_WAITS: Final = Backoff(initial=0.5, maximum=2.0)


class Live:
    """
    Read along for one client.

    Args:
        hub: reads the stream.
        past: of the stream.
        wanted: events.
        behind: the sequence it stopped at; 0 for the start of the stream, None for what is new.

    """

    def __init__(self, hub: Hub, past: Past, wanted: Wanted, behind: int | None) -> None:
        self.dropped = False
        """Whether it read too slowly."""

        self._hub = hub
        self._past = past
        self._wanted = wanted
        self._is_new = behind is None
        self._position = behind or 0
        self._era = 0
        self._caught_up = False
        self._waits = _WAITS.waits()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield what to send, until it has to go."""
        yield RETRY
        while not self._hub.stopping and not self.dropped:
            chunk = await self._next()
            if chunk:
                yield chunk
        yield RETRY

    async def _next(self) -> bytes:
        """Return the next bytes; none after waiting for something that was not for it."""
        hub, ring, news = self._hub, self._hub.ring, self._hub.news
        if self._era != hub.era:
            return self._enter()
        if self._position > max(ring.position, hub.last) and self._era and not hub.reason:
            return await self._find()
        if self._era and self._position < ring.behind:
            return self._drop() if self._caught_up else await self._catch_up()
        self._caught_up = self._era > 0
        if self._position >= ring.position:
            await news.wait()
            return b""
        chunk, self._position = ring.chunk(self._wanted, self._position)
        return chunk

    def _enter(self) -> bytes:
        """Begin, or begin again in another stream."""
        before, self._era = self._era, self._hub.era
        if not before:
            self._position = max(self._hub.last, self._hub.ring.position) if self._is_new else self._position
            return b""
        self._caught_up = False
        self._position = self._hub.first - 1
        return _resync("replaced", self._hub.first, self._hub.ring.position)

    def _drop(self) -> bytes:
        self.dropped = True
        return control("dropped", reason="read too slowly; resume from the last id")

    async def _find(self) -> bytes:
        """See whether the stream has come to where the client says it was; if not, it was in another one."""
        era = self._hub.era
        try:
            first, last = await self._past.bounds()
        except NatsUnavailable:
            await asyncio.sleep(next(self._waits))
            return b""
        if era == self._hub.era and self._position > last:
            self._position = first - 1
            return _resync("replaced", first, last)
        await asyncio.sleep(_AGAIN)
        return b""

    async def _catch_up(self) -> bytes:
        era = self._hub.era
        try:
            first, messages, end = await self._past.page(self._position)
        except (NatsUnavailable, StreamReplaced):
            # The hub finds out as well, and which of the two it is.
            await asyncio.sleep(next(self._waits))
            return b""
        self._waits = _WAITS.waits()
        if era != self._hub.era:
            return b""
        frames = [frame_of(message) for message in messages]
        data = b"".join(frame.data for frame in frames if self._wanted.takes(frame))
        # What is older than the stream at the start of the reading is not missed by a client that wanted the start.
        if self._position and self._position + 1 < first:
            data = _resync("expired", first, end) + data
        self._position = end
        return data


def _resync(reason: str, first: int, last: int) -> bytes:
    return control("resync", reason=reason, first_sequence=first, last_sequence=last)
