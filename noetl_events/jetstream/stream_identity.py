"""
The identity of a stream: whether it is still the one that was read before.

A stream that is created again, set back to a backup, or that lost its end in a power cut starts its sequences again.
The time of its creation proves nothing: a store that is set back keeps it, and a restore through the API changes it.
What proves that it is the same is that a message that is remembered is still the one at its place.  So marks are kept:
how far the stream was, and when its last message then was stored.

    the message at a mark was stored at the same time          the same stream, up to there
    another message is there, or the stream ends before it     another stream, from somewhere before there on
    the message is gone, or must not be looked at              the time of creation decides
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import msgspec

from noetl_events.jetstream.errors import PermissionDenied
from noetl_events.jetstream.message import unix_nanoseconds
from noetl_events.jetstream.storage import find_stored

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.streams import FoundStream

_MOST_MARKS: Final = 32


class Mark(msgspec.Struct, frozen=True):
    """
    How far a stream was.

    Args:
        created: when, as the server writes it.
        sequence: of its last message; 0 of one that never had any.
        stored_ns: when that one was stored, in Unix nanoseconds; 0 if it is not known.

    """

    created: str
    sequence: int
    stored_ns: int

    @classmethod
    def of(cls, found: FoundStream) -> Self:
        """Return the mark of a stream as it was *found*."""
        sequence = found.state.last_seq
        return cls(found.created, sequence, unix_nanoseconds(found.state.last_ts) if sequence else 0)


class Replaced(msgspec.Struct, frozen=True):
    """
    A stream that is not what it was.

    Args:
        kept: up to this sequence it still is; 0 if nothing of it is known to be.
        before: the last mark of what it was.
        now: the mark of what it is.

    """

    kept: int
    before: Mark
    now: Mark


_decode = msgspec.json.Decoder(list[Mark]).decode


class StreamIdentity:
    """
    What is remembered of one stream.

    Args:
        connection: to NATS; it stays open.
        stream: its name.

    """

    def __init__(self, connection: Connection, stream: str) -> None:
        self.marks: list[Mark] = []
        """Oldest first: the last one at every look, the older ones further and further apart."""

        self._connection = connection
        self._stream = stream
        self._may_look = True

    def load(self, payload: bytes) -> None:
        """Remember what `dump` returned in an earlier process; what cannot be read is forgotten."""
        try:
            self.marks = [*_decode(payload), *self.marks]
        except msgspec.MsgspecError:
            return

    def dump(self) -> bytes:
        """Return what is remembered."""
        return msgspec.json.encode(self.marks)

    async def look(self, found: FoundStream) -> Replaced | None:
        """
        Compare a stream, as it was *found*, with what is remembered; return how it differs, if it does.

        What was found is remembered from then on.

        Raises:
            NatsUnavailable: a message of it cannot be looked at now.

        """
        now, before = Mark.of(found), self.marks[-1] if self.marks else None
        replaced = None
        if before is not None and not await self._is_kept(before, now, found):
            while self.marks and not await self._is_kept(self.marks[-1], now, found):
                self.marks.pop()
            kept = self.marks[-1].sequence if self.marks else 0
            replaced = Replaced(kept, before, now)
        self._remember(now)
        return replaced

    async def _is_kept(self, mark: Mark, now: Mark, found: FoundStream) -> bool:
        if now.sequence < mark.sequence:
            return False
        if not mark.sequence or (now.sequence, now.stored_ns) == (mark.sequence, mark.stored_ns):
            # Of an empty stream there is nothing to recognise; the same message is the same stream.
            return bool(mark.sequence) or now.created == mark.created
        if mark.sequence >= found.state.first_seq and self._may_look:
            try:
                stored = await find_stored(self._connection, self._stream, mark.sequence)
            except PermissionDenied:
                self._may_look = False
            else:
                if stored is not None:
                    return stored.stored_ns == mark.stored_ns
        return now.created == mark.created

    def _remember(self, now: Mark) -> None:
        if not self.marks or now != self.marks[-1]:
            self.marks.append(now)
        if len(self.marks) > _MOST_MARKS:
            # Of the older half every other one.
            half = _MOST_MARKS // 2
            self.marks = [*self.marks[:half:2], *self.marks[half:]]
