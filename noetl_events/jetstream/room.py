"""A bound on what waits and is under way: the back-pressure of a publisher."""

from __future__ import annotations

import asyncio


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
