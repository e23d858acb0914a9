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
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    def try_take(self, size: int) -> bool:
        """Reserve room for one message of *size* bytes; return False if it is full or another task waits for room."""
        if self._waiting or not self._fits(size):
            return False
        self._messages += 1
        self._bytes += size
        return True

    async def take(self, size: int) -> None:
        """Wait for room and reserve it; if the wait is cancelled, nothing is reserved."""
        self._waiting += 1
        try:
            async with self._turn:
                while not self._fits(size):
                    self._freed.clear()
                    await self._freed.wait()
                self._messages += 1
                self._bytes += size
        finally:
            self._waiting -= 1

    def give_back(self, messages: int, size: int) -> None:
        """Release the room of so many messages with *size* bytes in total."""
        self._messages -= messages
        self._bytes -= size
        self._freed.set()

    def _fits(self, size: int) -> bool:
        return not self._messages or (self._messages < self._max_messages and self._bytes + size <= self._max_bytes)


# nats-py buffers 2 MiB before it waits for the socket, so a smaller burst needs one write.
_MOST_BYTES: Final = 1024 * 1024


class PublishQueue:
    """
    The bounded queue of a publisher's messages.

    Two messages with the same id are never in flight together: the second waits for the outcome of the first.

    Args:
        max_messages: most messages queued and in flight.
        max_bytes: most bytes of headers and payloads queued and in flight.

    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.room = QueueLimit(max_messages, max_bytes)
        """Limit; room is reserved before a message is put."""

        self._uncertain = RecentIds()
        self._waiting: deque[Outgoing] = deque()
        self._out: dict[bytes, Outgoing] = {}
        self._adding = 0

    @property
    def out(self) -> list[Outgoing]:
        """Messages handed out and not released."""
        return list(self._out.values())

    @property
    def is_filling(self) -> bool:
        """True if a task that has more messages to put is yielding to other tasks."""
        return self._adding > 0

    @property
    def is_drained(self) -> bool:
        """True if no message is queued and no task is about to put more."""
        return not self._waiting and not self._adding

    def put(self, message: Outgoing) -> None:
        """Append *message*, for which room is reserved."""
        self._waiting.append(message)

    async def let_others(self) -> None:
        """Yield to other tasks in the middle of a call that has more messages to put."""
        self._adding += 1
        try:
            await asyncio.sleep(0)
        finally:
            self._adding -= 1

    def next_burst(self, limit: int, *, certain: bool = False) -> list[Outgoing]:
        """
        Return up to *limit* messages, in order, up to the first repeated id.

        A burst never mixes ids that ever had an unknown outcome with others; if *certain*, it contains none of them.
        """
        burst: list[Outgoing] = []
        waiting, out, doubted = self._waiting, self._out, self._uncertain
        size, uncertain = 0, False
        while waiting and len(burst) < limit:
            message = waiting[0]
            if message.is_over():
                waiting.popleft()
                self.room.give_back(1, message.size)
                continue
            message_id = message.message_id
            if not burst and not certain:
                uncertain = message_id in doubted
            size += message.size
            if message_id in out or (message_id in doubted) is not uncertain or (burst and size > _MOST_BYTES):
                break
            out[message_id] = message
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
        """Release the room of *messages*, which are finished; messages released before are ignored."""
        count = size = 0
        for message in messages:
            if self._out.get(message.message_id) is message:
                del self._out[message.message_id]
                count += 1
                size += message.size
        self.room.give_back(count, size)

    def abandon(self) -> list[Outgoing]:
        """Remove and return all messages, none of which is finished."""
        messages = [*self.out, *self._waiting]
        self._out.clear()
        self._waiting.clear()
        self.room.give_back(len(messages), sum(message.size for message in messages))
        return messages
