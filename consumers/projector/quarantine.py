"""
Quarantine: find the event that kills its process, and bury it.

A redelivered message was in flight when a process or a connection died.  Any of thousands of messages may be the cause,
so redelivered messages are written in blocks, each with a crash record in a stream of its own.  The record names the
messages before they are written, and is cleared once the process survives the write, with any result.  A record that
was never cleared contains the cause: its messages are retried in parts of a twenty-fifth, and in the end one by one.  A
message that was written alone at two crashes is the cause.  Messages of the block outside every record get a record of
their own in another slot, because they may contain a second cause.  Clearing one crash record never clears another.

    block of 500 ─ died ─► parts of 20 ─ died ─► one by one ─ died ─► once more ─ died ─► buried

A process has a projector for each destination and for each partition, and all die together.  So a crash counts against
an event only if no other projector was writing: a lock is shared by normal writes and held exclusively for a suspect
event.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec
from msgspec import structs

from noetl_events.jetstream.declarations import TRIALS
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.message import attempt_of, delivery_of
from noetl_events.jetstream.storage import last_payload, store
from noetl_events.sink import SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration
    from noetl_events.jetstream.message import Message

_PATIENCE: Final = 10.0
# Timeout in seconds for restoring the crash record when the task is cancelled.
_FAREWELL: Final = 1.0

T = TypeVar("T")


class ExclusiveGate:
    """
    A lock for the projectors of one process: shared for normal writes, exclusive for one suspect event.

    Args:
        patience: timeout in seconds for acquiring the lock, so that a destination that hangs does not block the rest
            for ever.

    """

    def __init__(self, *, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._gate = asyncio.Lock()
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._writing = 0

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """
        Hold the lock shared: writes run concurrently, but not beside an exclusive one.

        Raises:
            SinkUnavailable: the exclusive lock was held for too long; retry.

        """
        await self._enter()
        self._gate.release()
        self._writing += 1
        self._nobody.clear()
        try:
            yield
        finally:
            self._writing -= 1
            if not self._writing:
                self._nobody.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """
        Hold the lock exclusively.

        Raises:
            SinkUnavailable: the lock was held for too long; retry.

        """
        await self._enter()
        try:
            await self._in_time(self._nobody.wait())
            yield
        finally:
            self._gate.release()

    async def _enter(self) -> None:
        await self._in_time(self._gate.acquire())

    async def _in_time(self, turn: Coroutine[None, None, bool]) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await turn
        except TimeoutError:
            words = "an event must be written alone, and a write to another destination or partition does not end"
            raise SinkUnavailable(words) from None


_BLOCK: Final = 500
_SPLIT: Final = 25
_FATAL_DEATHS: Final = 2
FATAL: Final = f"the process died {_FATAL_DEATHS} times while it wrote this event alone"


class CrashRecord(msgspec.Struct, frozen=True, kw_only=True):
    """
    A crash record: the range of stream sequences that contains the cause of a crash.

    Args:
        first: stream sequence of the first message.
        last: stream sequence of the last message.
        stored_ns: time at which the stream stored a single message, in Unix nanoseconds: sequences may restart.
        deaths: number of crashes while a single message was written.

    """

    first: int
    last: int
    stored_ns: int = 0
    deaths: int = 0

    def behind(self, sequence: int) -> CrashRecord | None:
        """Return the rest of the record behind *sequence*, or None if nothing is left."""
        return CrashRecord(first=sequence + 1, last=self.last) if self.first <= sequence < self.last else None


class Group(NamedTuple):
    """
    A group of messages that are written together.

    Args:
        messages: at least one message, in order.
        suspected: whether the messages were redelivered, so that they need a crash record.
        note: crash record that covers the messages, if there is one.
        place: slot of that record within its block.

    """

    messages: list[Message]
    suspected: bool = False
    note: CrashRecord | None = None
    place: int = 0

    @property
    def sequences(self) -> list[int]:
        """Stream sequences of the messages; redeliveries do not always arrive in order."""
        return [delivery_of(message).sequence for message in self.messages]

    @property
    def deaths(self) -> int:
        """Number of recorded crashes while the only message was written; 0 for several messages."""
        if self.note is None or len(self.messages) > 1 or self.note.first != self.note.last:
            return 0
        alone = delivery_of(self.messages[0])
        return self.note.deaths if (alone.sequence, alone.stored_ns) == (self.note.first, self.note.stored_ns) else 0

    @property
    def is_fatal(self) -> bool:
        """True if the message must not be written again."""
        return self.deaths >= _FATAL_DEATHS


def parts_of(messages: Sequence[Message], *, in_doubt: int = 0) -> Iterator[Group]:
    """
    Yield *messages* in their order: new ones as one group, redelivered ones by block.

    All messages up to sequence *in_doubt* count as redelivered, whatever their delivery count.
    """
    for block, group in groupby(messages, partial(_block_of, in_doubt=in_doubt)):
        yield Group(list(group), block is not None)


_read_note = msgspec.json.Decoder(CrashRecord).decode


class CrashRecords:
    """
    The crash records of a process, shared by all of its projectors.

    Args:
        connection: connection to NATS; the caller closes it.
        stream: stream that stores the records.

    """

    def __init__(self, connection: Connection, stream: StreamDeclaration = TRIALS) -> None:
        self.turns = ExclusiveGate()
        self._connection = connection
        self._stream = stream

    async def write(self, part: Group, emit: Callable[[], Awaitable[T]]) -> T:
        """
        Return the result of *emit*, which writes *part*; a suspected part has a crash record meanwhile.

        Any other error of *emit* leaves the record in place, because it ends the process.

        Raises:
            SinkUnavailable: as *emit*, or another projector of the process writes for too long; nothing is recorded.
            NatsUnavailable: the record cannot be stored.

        """
        if not part.suspected:
            async with self.turns.together():
                return await emit()
        # A crash counts against an event only if no other projector of this process was writing.
        async with self.turns.alone() if len(part.messages) == 1 else self.turns.together(), self._recorded(part):
            return await emit()

    @asynccontextmanager
    async def _recorded(self, part: Group) -> AsyncIterator[None]:
        try:
            await self.begin(part)
            yield
            await self.survive(part)
        except SinkUnavailable:
            await self.withdraw(part)
            raise
        except asyncio.CancelledError:
            # The event did not cause the cancellation.
            with suppress(NatsUnavailable, TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    await self.withdraw(part)
            raise

    async def narrow(self, part: Group) -> list[Group]:
        """
        Return *part* split into the groups to write now, in its order.

        Raises:
            NatsUnavailable: the records cannot be read.

        """
        notes = await self._notes(part)
        free = next(place for place, note in enumerate([*notes, None]) if note is None)
        parts: list[Group] = []
        for place, group in groupby(part.messages, lambda message: _narrowest(message, notes)):
            note = None if place is None else notes[place]
            parts += _slices(Group(list(group), suspected=True, note=note, place=free if place is None else place))
        return parts

    async def _notes(self, part: Group) -> list[CrashRecord | None]:
        """Return the crash records of the block of *part* by slot, None where a record was cleared."""
        notes: list[CrashRecord | None] = []
        while (payload := await self._payload(part._replace(place=len(notes)))) is not None:
            notes.append(_read_note(payload) if payload else None)
        return notes

    async def _payload(self, part: Group) -> bytes | None:
        return await last_payload(self._connection, self._stream.name, self._subject_of(part))

    async def begin(self, part: Group) -> None:
        """
        Record that *part* is about to be written.

        Raises:
            NatsUnavailable: the record may not be stored; do not write the messages.

        """
        first = delivery_of(part.messages[0])
        note = CrashRecord(first=min(part.sequences), last=max(part.sequences))
        if len(part.messages) == 1:
            note = structs.replace(note, stored_ns=first.stored_ns, deaths=part.deaths + 1)
        await self._write(part, note)

    async def survive(self, part: Group) -> None:
        """
        Clear *part* from its crash record after a write or a rejection; messages behind it stay recorded.

        Raises:
            NatsUnavailable: the record may still be there.

        """
        await self._write(part, part.note and part.note.behind(max(part.sequences)))

    async def withdraw(self, part: Group) -> None:
        """
        Restore the record to its state before this attempt.

        Raises:
            NatsUnavailable: the attempt may still be recorded.

        """
        await self._write(part, part.note)

    async def _write(self, part: Group, note: CrashRecord | None) -> None:
        payload = b"" if note is None else msgspec.json.encode(note)
        await store(self._connection, self._subject_of(part), payload, {}, stream=self._stream.name)

    def _subject_of(self, part: Group) -> str:
        delivery = delivery_of(part.messages[0])
        block = f"{delivery.stream}.{delivery.consumer}.{delivery.sequence // _BLOCK}"
        return f"{self._stream.prefix}.{block}{f'-{part.place}' if part.place else ''}"


def _narrowest(message: Message, notes: Sequence[CrashRecord | None]) -> int | None:
    """Return the slot of the smallest record that contains *message*."""
    holding = [(note.last - note.first, place) for place, note in enumerate(notes) if note and _is_in(message, note)]
    return min(holding)[1] if holding else None


def _slices(part: Group) -> Iterator[Group]:
    note, messages = part.note, part.messages
    step = len(messages) if note is None else max((note.last - note.first + 1) // _SPLIT, 1)
    for start in range(0, len(messages), step):
        yield part._replace(messages=messages[start : start + step])


def _block_of(message: Message, *, in_doubt: int) -> int | None:
    if attempt_of(message) == 1 and (not in_doubt or delivery_of(message).sequence > in_doubt):
        return None
    return delivery_of(message).sequence // _BLOCK


def _is_in(message: Message, note: CrashRecord) -> bool:
    return note.first <= delivery_of(message).sequence <= note.last
