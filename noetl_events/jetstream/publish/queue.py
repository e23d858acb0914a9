"""The queue of a publisher: messages that wait, in order, or are under way, with a bound that holds the caller back."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from noetl_events.ids import RecentIds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from noetl_events.jetstream.publish.message import Outgoing


class Room:
    """
    Room for so many messages and bytes, taken in the order of asking.

    One message always fits an empty room, however large it is.
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
        """Take room for one message of *size* bytes if there is some and nobody waits for it."""
        if self._waiting or not self._fits(size):
            return False
        self._messages += 1
        self._bytes += size
        return True

    async def take(self, size: int) -> None:
        """Wait for room and take it; cancelled, nothing was taken."""
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
        """Return the room of so many messages, *size* bytes in all."""
        self._messages -= messages
        self._bytes -= size
        self._freed.set()

    def _fits(self, size: int) -> bool:
        return not self._messages or (self._messages < self._max_messages and self._bytes + size <= self._max_bytes)


# nats-py gathers 2 MiB before it has to wait for the socket: a burst below that is written in one go.
_MOST_BYTES: Final = 1024 * 1024


class Outbox:
    """
    The messages of a publisher, bounded.

    No id is out twice: a message that repeats one waits until the first has its outcome.

    Args:
        max_messages: waiting and out; past that there is no room.
        max_bytes: likewise, of headers and payloads.

    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.room = Room(max_messages, max_bytes)
        """Taken before a message is put."""

        self._uncertain = RecentIds()
        self._waiting: deque[Outgoing] = deque()
        self._out: dict[bytes, Outgoing] = {}
        self._adding = 0

    @property
    def out(self) -> list[Outgoing]:
        """What was handed out and not released."""
        return list(self._out.values())

    @property
    def is_filling(self) -> bool:
        """Whether somebody who has more to put only lets others have their turn."""
        return self._adding > 0

    @property
    def is_drained(self) -> bool:
        """Whether nothing waits, and nothing is about to."""
        return not self._waiting and not self._adding

    def put(self, message: Outgoing) -> None:
        """Take in *message*, whose room is taken."""
        self._waiting.append(message)

    async def let_others(self) -> None:
        """Let other tasks have their turn, having more to put."""
        self._adding += 1
        try:
            await asyncio.sleep(0)
        finally:
            self._adding -= 1

    def next_burst(self, limit: int, *, certain: bool = False) -> list[Outgoing]:
        """
        Hand out up to *limit* messages, in order, until a repeated id.

        No burst mixes messages whose outcome was ever unknown with others; if *certain*, it has none of them.
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
        """Whether *message* was sent before with an outcome that stayed unknown."""
        return message.message_id in self._uncertain

    def doubt(self, messages: Iterable[Outgoing]) -> None:
        """Note that the outcome of *messages* is unknown: nothing with these ids is part of a batch again."""
        for message in messages:
            self._uncertain.add(message.message_id)

    def release(self, messages: Iterable[Outgoing]) -> None:
        """Take back the room of *messages*, which are finished; what was released before is left alone."""
        count = size = 0
        for message in messages:
            if self._out.get(message.message_id) is message:
                del self._out[message.message_id]
                count += 1
                size += message.size
        self.room.give_back(count, size)

    def abandon(self) -> list[Outgoing]:
        """Return everything, finished with none of it."""
        messages = [*self.out, *self._waiting]
        self._out.clear()
        self._waiting.clear()
        self.room.give_back(len(messages), sum(message.size for message in messages))
        return messages
