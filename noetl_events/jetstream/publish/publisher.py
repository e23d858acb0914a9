"""
Publish messages into a stream, each stored once, as fast as the server accepts them.

There is no timer: a message is sent at once if none is in flight; messages that arrive meanwhile form the next batch.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Literal

from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.publish.message import Call
from noetl_events.jetstream.publish.queue import PublishQueue
from noetl_events.jetstream.publish.sender import Mode, Sender

if TYPE_CHECKING:
    from collections.abc import Iterable

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.publish.message import Outgoing, PublishCounts

Durability = Literal["stored", "fsync"]

_MODES: Final[dict[str, Mode]] = {"stored": "fast", "fsync": "atomic"}

# A large call is encoded while it is queued; after this many messages it yields to other tasks, and sending starts.
_YIELD_EVERY: Final = 125


class Publisher:
    """
    Publish from many tasks through one connection.

    Args:
        connection: connection to NATS; the publisher does not close it.
        timeout: seconds a message may wait for its outcome.
        max_messages: most messages queued and in flight; at that bound `publish` waits.
        max_bytes: most bytes of headers and payloads queued and in flight; at that bound `publish` waits.
        durable: "fsync" for a server with `sync_interval: always`: messages go in atomic batches, and the server syncs
            each batch once (server 2.15).  The faster "stored" batches are synced message by message on such a server.
            The server's setting decides: without it, the server acknowledges before it syncs, whatever is set here.
        stream: name of the stream that has to acknowledge; empty to learn the name.

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
        self._connection = connection
        self._timeout = timeout
        self._queue = PublishQueue(max_messages, max_bytes)
        self._sender = Sender(connection, self._queue, timeout=timeout, mode=_MODES[durable], stream=stream)
        self._worker: asyncio.Task[None] | None = None
        self._calls = 0
        self._idle = asyncio.Event()
        self._closed = False

    @property
    def mode(self) -> Mode:
        """Kind of batches: "fast" or "atomic" (ADR-50), or "plain" once the stream has shown that it accepts none."""
        return self._sender.mode

    @property
    def counts(self) -> PublishCounts:
        """Counts since the publisher was created."""
        return self._sender.outcomes.counts

    @property
    def last_sequence(self) -> int:
        """Stream sequence of the message acknowledged last; 0 before the first."""
        return self._sender.outcomes.last_sequence

    async def publish(self, messages: Iterable[Outgoing]) -> None:
        """
        Return when all of *messages* are stored; the iterable is consumed as the queue accepts more.

        Raises:
            NatsUnavailable: the outcome of at least one message is unknown; publish all of them again later.
            EventsRejected: the stream will never accept these; all other messages are stored.
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
        """Close the publisher when everything accepted has its outcome; calling it twice is harmless."""
        self._closed = True
        while self._calls:
            self._idle.clear()
            await self._idle.wait()
        if self._worker is not None:
            # Every message has its outcome, so the worker only ends its batch.
            await asyncio.wait([self._worker])
        await self._sender.aclose()

    async def _enqueue(self, call: Call, messages: Iterable[Outgoing]) -> None:
        deadline, limit = time.monotonic() + self._timeout, self._connection.max_payload
        for number, message in enumerate(messages, 1):
            if message.size > limit:
                # No other call waits meanwhile.  The sender refuses a message that is still too large.
                limit = await self._connection.room_for(message.size)
                deadline = time.monotonic() + self._timeout
            if not self._queue.limit.try_acquire(message.size):
                await self._wait_for_space(call, message.size)
                deadline = time.monotonic() + self._timeout
            if call.done.done():
                self._queue.limit.release(1, message.size)
                return
            message.deadline = deadline
            call.add(message)
            self._queue.put(message)
            if self._worker is None:
                self._worker = asyncio.create_task(self._work())
            if number % _YIELD_EVERY == 0:
                await self._queue.yield_while_filling()
        call.complete()

    async def _wait_for_space(self, call: Call, size: int) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._queue.limit.acquire(size)
        except TimeoutError:
            reason = f"the queue was full for {self._timeout:g} s"
            raise NatsUnavailable(call.with_state(reason)) from None

    async def _work(self) -> None:
        """Send until the queue is empty; `publish` starts the worker again."""
        try:
            await self._sender.send_all()
        except BaseException as exc:
            # A bug or the end of the event loop: fail all calls, so no caller waits for ever.
            for message in self._queue.remove_all():
                if isinstance(exc, Exception):
                    message.call.fail(exc)
                message.call.done.cancel()
            if not isinstance(exc, Exception):
                raise
        finally:
            self._worker = None
