"""The dead-letter stream for those who look after it: choose letters, look one up, remove one."""

from __future__ import annotations

from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from consumers.dead_letters.letter import read_letter
from noetl_events.jetstream.stored import find_stored, read_stored, remove_stored
from noetl_events.jetstream.topology import DEAD_STREAM

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from consumers.dead_letters.letter import Letter
    from noetl_events.jetstream.connection import Connection


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """
    Which dead letters; all of them by default.

    Args:
        kinds: any of these.
        reason: in their reason, in any case.
        since: buried then or later.
        until: buried before.
        execution: the id in their body, whether or not the rest of it is an event.
        limit: the first so many; None for all.

    """

    kinds: tuple[str, ...] = ()
    reason: str = ""
    since: datetime | None = None
    until: datetime | None = None
    execution: int | None = None
    limit: int | None = None

    def takes(self, letter: Letter) -> bool:
        """Whether *letter* is one of them, whatever the limit."""
        return (
            (not self.kinds or letter.kind in self.kinds)
            and self.reason.casefold() in letter.reason.casefold()
            and (self.since is None or letter.buried_at >= self.since)
            and (self.until is None or letter.buried_at < self.until)
            and (self.execution is None or _execution(letter.body) == self.execution)
        )


class Graveyard:
    """
    The dead letters of a stream.

    Args:
        connection: to NATS; it stays open.
        stream: that holds them.

    """

    def __init__(self, connection: Connection, *, stream: str = DEAD_STREAM) -> None:
        self.stream = stream
        self._connection = connection

    async def letters(self, wanted: Wanted, *, distinct: bool = False) -> AsyncGenerator[Letter, None]:
        """
        Yield the letters there are now, in the order of their burial, without bodies unless *wanted* needs them.

        With *distinct* a message that was buried again, when the stream no longer remembered its id, comes once.
        Close it (`contextlib.aclosing`) when leaving early.

        Raises:
            NatsUnavailable: they cannot be read now.

        """
        headers_only = wanted.execution is None
        seen: set[str] = set()
        found = 0
        reading = read_stored(self._connection, self.stream, since=wanted.since, headers_only=headers_only)
        async with aclosing(reading):
            async for stored in reading:
                letter = read_letter(stored)
                if wanted.takes(letter) and letter.identity not in seen:
                    if distinct:
                        seen.add(letter.identity)
                    found += 1
                    yield letter
                if found == wanted.limit:
                    return

    async def find(self, sequence: int) -> Letter | None:
        """
        Return the letter with this number, whole, or None when there is none.

        Raises:
            NatsUnavailable: it cannot be read now.

        """
        stored = await find_stored(self._connection, self.stream, sequence)
        return None if stored is None else read_letter(stored)

    async def remove(self, sequence: int) -> bool:
        """
        Remove the letter with this number for ever, and return whether it was there.

        Raises:
            NatsUnavailable: it may be there or not.

        """
        return await remove_stored(self._connection, self.stream, sequence)


class _Execution(msgspec.Struct):
    execution_id: int | str


_read_execution = msgspec.json.Decoder(_Execution).decode


def _execution(body: bytes) -> int | None:
    try:
        return int(_read_execution(body).execution_id)
    except (ValueError, RecursionError, OverflowError):
        return None
