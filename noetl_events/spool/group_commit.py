"""Many writers, one sync: what comes in while a write is under way forms the next one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from noetl_events.sink import SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_LARGEST: Final = 16 * 2**20
"""Bytes that may wait for the next write; past that writers wait to join it."""


class GroupCommit:
    """
    Gather records.

    Args:
        append: makes one run of bytes durable.

    """

    def __init__(self, append: Callable[[bytes], Awaitable[None]]) -> None:
        self._append = append
        self._next = _Group()
        self._writing: asyncio.Task[None] | None = None

    async def write(self, records: bytes) -> None:
        """
        Return when *records* are durable; cancelled, they may be or not.

        Raises:
            SinkUnavailable: they are not.

        """
        while self._next.size > _LARGEST:
            await asyncio.wait([self._next.written])
        group = self._next
        group.add(records)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        await asyncio.shield(group.written)

    async def finish(self) -> None:
        """Return when nothing is under way."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def _write(self) -> None:
        try:
            while self._next.records:
                group, self._next = self._next, _Group()
                await self._commit(group)
        finally:
            self._writing = None

    async def _commit(self, group: _Group) -> None:
        try:
            await self._append(b"".join(group.records))
        except SinkUnavailable as exc:
            group.written.set_exception(exc)
            # Looked at, for all its writers may have been cancelled.
            group.written.exception()
        except BaseException:
            group.written.cancel()
            raise
        else:
            group.written.set_result(None)


class _Group:
    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.size = 0
        self.written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def add(self, records: bytes) -> None:
        self.records.append(records)
        self.size += len(records)
