"""
Messages into a stream, each stored once, as fast as the server takes them.

There is no timer: a message that finds nothing under way goes at once; what comes in meanwhile forms the next batch.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Literal

from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.publish.message import Call
from noetl_events.jetstream.publish.queue import Outbox
from noetl_events.jetstream.publish.sender import Mode, Sender

if TYPE_CHECKING:
    from collections.abc import Iterable

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.publish.message import Outgoing, PublishCounts

Durability = Literal["stored", "fsync"]

_MODES: Final[dict[str, Mode]] = {"stored": "fast", "fsync": "atomic"}

# A large call is encoded as it is queued: after so many, other tasks have their turn, and the first ones are sent.
_LONG_TURN: Final = 125


class Publisher:
    """
    Publish from many tasks through one connection.

    Args:
        connection: to NATS; it stays open.
        timeout: seconds a message may wait for its outcome.
        max_messages: waiting and under way; past that `publish` waits.
        max_bytes: likewise, of subjects' headers and payloads.
        durable: "fsync" where the server has `sync_interval: always`: of the atomic batches this sends it syncs each
            once (server 2.15), of the faster "stored" ones each message.  Which promise holds is the server's setting:
            without it, it acknowledges before it syncs, whatever stands here.
        stream: name of the stream whose acknowledgements count; empty where it has to be learned.

    """

    def __init__(
        self,
        connection: Connection,
        *,
        timeout: float = 30.0,
        max_messages: int = 20_000,
        max_bytes: int = 64 * 1024 * 1024,
        durable: Durability = "stored",
        stream: str = "",
    ) -> None:
        if durable not in _MODES:
            raise ValueError(f"durable: {durable!r} is neither 'stored' nor 'fsync'")
        self._timeout = timeout
        self._outbox = Outbox(max_messages, max_bytes)
        self._sender = Sender(connection, self._outbox, timeout=timeout, mode=_MODES[durable], stream=stream)
        self._worker: asyncio.Task[None] | None = None
        self._calls = 0
        self._idle = asyncio.Event()
        self._closed = False

    @property
    def mode(self) -> Mode:
        """How batches go: "fast" or "atomic" (ADR-50), or "plain" once the stream has shown that it takes none."""
        return self._sender.mode

    @property
    def counts(self) -> PublishCounts:
        """What was done so far."""
        return self._sender.counts

    @property
    def last_sequence(self) -> int:
        """In the stream, of what was acknowledged last; 0 before."""
        return self._sender.last_sequence

    async def publish(self, messages: Iterable[Outgoing]) -> None:
        """
        Return when every one of *messages* is stored; they are taken from the iterable as there is room for them.

        Raises:
            NatsUnavailable: what is stored of them is unknown; publish all of them again, later.
            EventsRejected: the stream will never take these; all others are stored.
            RuntimeError: the publisher is closed.

        """
        if self._closed:
            raise RuntimeError("Publisher is closed")
        self._calls += 1
        call = Call()
        try:
            await self._enqueue(call, messages)
            await call.done
        finally:
            call.close()
            self._calls -= 1
            self._idle.set()

    async def aclose(self) -> None:
        """Return when everything accepted has its outcome; twice is once."""
        self._closed = True
        while self._calls:
            self._idle.clear()
            await self._idle.wait()
        if self._worker is not None:
            # Everything is settled; it only ends its batch.
            await asyncio.wait([self._worker])
        await self._sender.aclose()

    async def _enqueue(self, call: Call, messages: Iterable[Outgoing]) -> None:
        deadline = time.monotonic() + self._timeout
        for number, message in enumerate(messages, 1):
            if not self._outbox.room.try_take(message.size):
                await self._wait_for_room(message.size)
                deadline = time.monotonic() + self._timeout
            if call.done.done():
                self._outbox.room.give_back(1, message.size)
                return
            message.deadline = deadline
            call.add(message)
            self._outbox.put(message)
            if self._worker is None:
                self._worker = asyncio.create_task(self._work())
            if number % _LONG_TURN == 0:
                await self._outbox.let_others()
        call.complete()

    async def _wait_for_room(self, size: int) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._outbox.room.take(size)
        except TimeoutError:
            raise NatsUnavailable(f"not sent: no room for {self._timeout:g} s") from None

    async def _work(self) -> None:
        """Send until nothing waits; `publish` starts it again."""
        try:
            await self._sender.send_all()
        except BaseException as exc:
            # A bug, or the loop is going down: nobody may wait for ever.
            for message in self._outbox.abandon():
                if isinstance(exc, Exception):
                    message.call.fail(exc)
                message.call.done.cancel()
            if not isinstance(exc, Exception):
                raise
        finally:
            self._worker = None
