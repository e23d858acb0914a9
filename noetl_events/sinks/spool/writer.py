"""Records of many emitters share a write and its sync: those that arrive during a write form the next one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from noetl_events.sinks.spool.journal import SpoolFull

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from noetl_events.sinks.spool.forwarder import Forwarder
    from noetl_events.sinks.spool.journal import Journal

_MAX_WAITING: Final = 16 * 2**20
"""Bytes that may wait for the next write; at that size emitters wait."""


class JournalWriter:
    """
    Append the records of many emitters to *journal*.

    Args:
        journal: open journal; its calls run through *in_thread*.
        forwarder: reader of the journal.
        in_thread: function that runs a blocking call, one at a time.

    """

    def __init__(self, journal: Journal, forwarder: Forwarder, in_thread: Callable[..., Awaitable[Any]]) -> None:
        self._journal = journal
        self._forwarder = forwarder
        self._in_thread = in_thread
        self._next = _Group()
        self._writing: asyncio.Task[None] | None = None

    async def write(self, records: bytes) -> None:
        """
        Return when *records* are durable; after a cancellation the outcome is unknown.

        Raises:
            SinkUnavailable: the records are not stored.

        """
        while self._next.size > _MAX_WAITING:
            await asyncio.wait([self._next.written])
        group = self._next
        group.add(records)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_groups())
        await asyncio.shield(group.written)

    async def finish(self) -> None:
        """Return when no write is in flight."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def _write_groups(self) -> None:
        try:
            while self._next.records:
                group, self._next = self._next, _Group()
                await self._write(group)
        finally:
            self._writing = None

    async def _write(self, group: _Group) -> None:
        try:
            await self._in_thread(self._append, b"".join(group.records))
        except Exception as exc:  # noqa: BLE001  (each emitter gets the error, also that of a bug)
            group.written.set_exception(exc)
            # Retrieve the exception, as all emitters may have been cancelled and asyncio would report it.
            group.written.exception()
        except BaseException:
            # The end of the event loop: no emitter may wait for ever.
            group.written.cancel()
            raise
        else:
            self._forwarder.on_append()
            group.written.set_result(None)

    def _append(self, records: bytes) -> None:
        try:
            self._journal.append(records)
        except SpoolFull:
            # A new event is worth more than the replay of an acknowledged one.
            self._journal.make_room(self._forwarder.position)
            self._journal.append(records)


class _Group:
    """Records of one write, and the outcome that their emitters wait for."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.size = 0
        self.written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def add(self, records: bytes) -> None:
        self.records.append(records)
        self.size += len(records)
