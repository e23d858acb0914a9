"""The queue of a publisher: messages queued and in flight, in order, with a bound that makes callers wait."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from noetl_events.ids import RecentIds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from noetl_events.jetstream.publish.message import Outgoing


class QueueLimit:
    """
    A limit of messages and bytes, granted in the order of requests.

    A single message is always granted if no other is, however large it is.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages = 0
        self._bytes = 0
        self._waiting = 0
        self._lock = asyncio.Lock()
        self._freed = asyncio.Event()

    def try_acquire(self, size: int) -> bool:
        """Reserve space for one message of *size* bytes; return False if there is none or another task waits."""
        if self._waiting or not self._fits(size):
            return False
        self._messages += 1
        self._bytes += size
        return True

    async def acquire(self, size: int) -> None:
        """Wait for space and reserve it; if the wait is cancelled, nothing is reserved."""
        self._waiting += 1
        try:
            async with self._lock:
                while not self._fits(size):
                    self._freed.clear()
                    await self._freed.wait()
                self._messages += 1
                self._bytes += size
        finally:
            self._waiting -= 1

    def release(self, messages: int, size: int) -> None:
        """Release the space of so many *messages* with *size* bytes in total."""
        self._messages -= messages
        self._bytes -= size
        self._freed.set()

    def _fits(self, size: int) -> bool:
        return not self._messages or (self._messages < self._max_messages and self._bytes + size <= self._max_bytes)


# nats-py buffers 2 MiB before it waits for the socket, so a smaller burst needs one write.
_MAX_BURST_BYTES: Final = 1024 * 1024


class PublishQueue:
    """
    The bounded queue of a publisher's messages.

    Two messages with the same id are never in flight together: the second waits for the outcome of the first.

    Args:
        max_messages: most messages queued and in flight.
        max_bytes: most bytes of headers and payloads queued and in flight.

    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.limit = QueueLimit(max_messages, max_bytes)
        """Limit; space is reserved before a message is put."""

        self._uncertain = RecentIds()
        self._waiting: deque[Outgoing] = deque()
        self._in_flight: dict[bytes, Outgoing] = {}
        self._filling = 0

    @property
    def in_flight(self) -> list[Outgoing]:
        """Messages returned by `next_burst` and not released."""
        return list(self._in_flight.values())

    @property
    def is_filling(self) -> bool:
        """True if a task that has more messages to put is yielding to other tasks."""
        return self._filling > 0

    @property
    def is_drained(self) -> bool:
        """True if no message is queued and no task is about to put more."""
        return not self._waiting and not self._filling

    def put(self, message: Outgoing) -> None:
        """Append *message*, for which space is reserved."""
        self._waiting.append(message)

    async def yield_while_filling(self) -> None:
        """Yield to other tasks in the middle of a call that has more messages to put."""
        self._filling += 1
        try:
            await asyncio.sleep(0)
        finally:
            self._filling -= 1

    def next_burst(self, limit: int, *, certain: bool = False) -> list[Outgoing]:
        """
        Return up to *limit* messages, in order, up to the first repeated id.

        A burst never mixes ids that ever had an unknown outcome with other ids; if *certain*, it contains none of them.
        """
        burst: list[Outgoing] = []
        waiting, in_flight, uncertain_ids = self._waiting, self._in_flight, self._uncertain
        size, uncertain = 0, False
        while waiting and len(burst) < limit:
            message = waiting[0]
            if message.is_finished():
                waiting.popleft()
                self.limit.release(1, message.size)
                continue
            message_id = message.message_id
            if not burst and not certain:
                uncertain = message_id in uncertain_ids
            size += message.size
            if (
                message_id in in_flight
                or (message_id in uncertain_ids) is not uncertain
                or (burst and size > _MAX_BURST_BYTES)
            ):
                break
            in_flight[message_id] = message
            burst.append(message)
            waiting.popleft()
        return burst

    def is_uncertain(self, message: Outgoing) -> bool:
        """Return True if *message* was sent before with an unknown outcome."""
        return message.message_id in self._uncertain

    def mark_uncertain(self, messages: Iterable[Outgoing]) -> None:
        """Record that the outcome of *messages* is unknown, so their ids never join a fast-ingest batch again."""
        for message in messages:
            self._uncertain.add(message.message_id)

    def release(self, messages: Iterable[Outgoing]) -> None:
        """Release the space of *messages*, which are finished; messages released before are ignored."""
        count = size = 0
        for message in messages:
            if self._in_flight.get(message.message_id) is message:
                del self._in_flight[message.message_id]
                count += 1
                size += message.size
        self.limit.release(count, size)

    def remove_all(self) -> list[Outgoing]:
        """Remove and return all messages, none of which is finished."""
        messages = [*self.in_flight, *self._waiting]
        self._in_flight.clear()
        self._waiting.clear()
        self.limit.release(len(messages), sum(message.size for message in messages))
        return messages
