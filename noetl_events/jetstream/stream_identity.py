"""
The identity of a stream: a check that it is still the stream that was read before.

The sequences start again if a stream is created again, restored from a backup, or loses its end in a power cut.  The
creation time proves nothing: a restored store keeps it, and a restore through the API changes it.  The proof is a
remembered message that is still stored at its sequence.  So marks are kept: the last sequence of the stream, and the
time when that message was stored.  The spool and the gateway need no proof, because events may be forwarded or
shown twice: both compare `StreamPosition`s.

    the message at a mark was stored at the same time          the same stream, up to there
    another message is there, or the stream ends before it     another stream, from somewhere before there on
    the message is gone, or reading it is denied               the creation time decides
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
    The end of a stream at some time.

    Args:
        created: creation time of the stream, in the server's format.
        sequence: sequence of the last message; 0 if there never was one.
        stored_ns: time of storing that message, in Unix nanoseconds; 0 if unknown.

    """

    created: str
    sequence: int
    stored_ns: int

    @classmethod
    def of(cls, found: FoundStream) -> Self:
        """Return the mark of the stream *found*."""
        sequence = found.state.last_seq
        return cls(found.created, sequence, unix_nanoseconds(found.state.last_ts) if sequence else 0)


class Replaced(msgspec.Struct, frozen=True):
    """
    A stream that has changed its identity.

    Args:
        kept: last sequence that is unchanged; 0 if none is known to be.
        before: last mark of the earlier stream.
        now: mark of the current stream.

    """

    kept: int
    before: Mark
    now: Mark


_decode = msgspec.json.Decoder(list[Mark]).decode


class StreamIdentity:
    """
    The remembered marks of one stream.

    Args:
        connection: connection to NATS; it is not closed here.
        stream: name of the stream.

    """

    def __init__(self, connection: Connection, stream: str) -> None:
        self.marks: list[Mark] = []
        """Marks, oldest first: the last one is of the latest check, older ones are further and further apart."""

        self._connection = connection
        self._stream = stream
        self._may_read = True

    def load(self, payload: bytes) -> None:
        """Load marks that `dump` returned in an earlier process; unreadable ones are ignored."""
        try:
            self.marks = [*_decode(payload), *self.marks]
        except msgspec.MsgspecError:
            return

    def dump(self) -> bytes:
        """Return the marks, encoded."""
        return msgspec.json.encode(self.marks)

    async def compare(self, found: FoundStream) -> Replaced | None:
        """
        Compare the stream *found* with the marks, and return the difference, if there is one.

        The end of *found* becomes the latest mark.

        Raises:
            NatsUnavailable: a message of the stream cannot be read now.

        """
        now, before = Mark.of(found), self.marks[-1] if self.marks else None
        replaced = None
        if before is not None and not await self._is_unchanged(before, now, found):
            while self.marks and not await self._is_unchanged(self.marks[-1], now, found):
                self.marks.pop()
            kept = self.marks[-1].sequence if self.marks else 0
            replaced = Replaced(kept, before, now)
        self._remember(now)
        return replaced

    async def _is_unchanged(self, mark: Mark, now: Mark, found: FoundStream) -> bool:
        if now.sequence < mark.sequence:
            return False
        if not mark.sequence or (now.sequence, now.stored_ns) == (mark.sequence, mark.stored_ns):
            # An empty stream has no message to compare; the same last message means the same stream.
            return bool(mark.sequence) or now.created == mark.created
        if mark.sequence >= found.state.first_seq and self._may_read:
            try:
                stored = await find_stored(self._connection, self._stream, mark.sequence)
            except PermissionDenied:
                self._may_read = False
            else:
                if stored is not None:
                    return stored.stored_ns == mark.stored_ns
        return now.created == mark.created

    def _remember(self, now: Mark) -> None:
        if not self.marks or now != self.marks[-1]:
            self.marks.append(now)
        if len(self.marks) > _MOST_MARKS:
            # Drop every other mark of the older half.
            half = _MOST_MARKS // 2
            self.marks = [*self.marks[:half:2], *self.marks[half:]]
