"""
Quarantine: the event that kills its process is found and buried.

A message that is delivered again was in hand when a process died, or a connection.  That says nothing of which of
thousands it was.  So what is delivered again is written in blocks, each on trial: a note in a stream of its own says
which messages are about to be written, and is struck out once the process has survived that, whatever came of it.  A
note that was never struck out holds the culprit: its messages are tried in parts of a twenty-fifth, and in the end one
by one.  The one that was alone when the process died, twice, is it.  What no note of the block holds is tried under one
of its own, in another place, for it may hold another culprit; no trial strikes out what another one has found.

    block of 500 ─ died ─► parts of 20 ─ died ─► one by one ─ died ─► once more ─ died ─► buried

A process has a projector for each destination and for each partition, and all die together.  So a death counts against
an event only if nothing else was being written: a lock has normal writes share it, and a suspect event hold it alone.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from msgspec import structs

from noetl_events.jetstream.declarations import TRIALS
from noetl_events.jetstream.message import attempt_of, delivery_of
from noetl_events.jetstream.storage import last_payload, store
from noetl_events.sink import SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration
    from noetl_events.jetstream.message import Message

_PATIENCE: Final = 10.0


class Turns:
    """
    The turns of the projectors of one process.

    Args:
        patience: seconds to wait for a turn, so that a destination that hangs does not keep the others for ever.

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
        Write while others do, but while nobody writes `alone`.

        Raises:
            SinkUnavailable: somebody does, for too long; try again.

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
        Write while nobody else does.

        Raises:
            SinkUnavailable: somebody does, for too long; try again.

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
            raise SinkUnavailable("an event is tried alone, and another destination or lane does not answer") from None


_BLOCK: Final = 500
_SPLIT: Final = 25
_FATAL_DEATHS: Final = 2
FATAL: Final = f"the process died {_FATAL_DEATHS} times while it wrote this event, and this one alone"


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """
    The messages of a block that hold the culprit, by their sequences.

    Args:
        first: of them.
        last: of them.
        stored_ns: when the stream stored the first, where it is alone: sequences may start again.
        deaths: how often it was alone when the process died.

    """

    first: int
    last: int
    stored_ns: int = 0
    deaths: int = 0

    def behind(self, sequence: int) -> Note | None:
        """Return what is left of it behind *sequence*."""
        return Note(first=sequence + 1, last=self.last) if self.first <= sequence < self.last else None


class Part(NamedTuple):
    """
    Messages that are written together.

    Args:
        messages: at least one, in order.
        suspected: delivered again: they are on trial.
        note: that stands on their block, if one does.
        place: of the note, among those of the block.

    """

    messages: list[Message]
    suspected: bool = False
    note: Note | None = None
    place: int = 0

    @property
    def sequences(self) -> list[int]:
        """Of the messages: what comes again does not always come in order."""
        return [delivery_of(message).sequence for message in self.messages]

    @property
    def deaths(self) -> int:
        """How often the process died of the only message in it, as far as is noted."""
        if self.note is None or len(self.messages) > 1 or self.note.first != self.note.last:
            return 0
        alone = delivery_of(self.messages[0])
        return self.note.deaths if (alone.sequence, alone.stored_ns) == (self.note.first, self.note.stored_ns) else 0

    @property
    def is_fatal(self) -> bool:
        """Whether it must not be tried any more."""
        return self.deaths >= _FATAL_DEATHS


def parts_of(messages: Sequence[Message], *, in_doubt: int = 0) -> Iterator[Part]:
    """
    Yield *messages* in their order: what comes for the first time together, what comes again in blocks.

    Up to sequence *in_doubt* everything comes again, whatever its attempt says.
    """
    for block, group in groupby(messages, partial(_block_of, in_doubt=in_doubt)):
        yield Part(list(group), block is not None)


_read_note = msgspec.json.Decoder(Note).decode


class Trials:
    """
    The notes of what is on trial: one of these for all projectors of a process.

    Args:
        connection: to NATS; it stays open.
        stream: the notes are kept in.

    """

    def __init__(self, connection: Connection, stream: StreamDeclaration = TRIALS) -> None:
        self.turns = Turns()
        self._connection = connection
        self._stream = stream

    async def narrow(self, part: Part) -> list[Part]:
        """
        Return *part* in the parts in which it is to be tried now, in its order.

        Raises:
            NatsUnavailable: the notes cannot be read.

        """
        notes = await self._notes(part)
        free = next(place for place, note in enumerate([*notes, None]) if note is None)
        parts: list[Part] = []
        for place, group in groupby(part.messages, lambda message: _narrowest(message, notes)):
            note = None if place is None else notes[place]
            parts += _slices(Part(list(group), suspected=True, note=note, place=free if place is None else place))
        return parts

    async def _notes(self, part: Part) -> list[Note | None]:
        """Return the notes on the block of *part* by their places, None where one was struck out."""
        notes: list[Note | None] = []
        while (payload := await self._payload(part._replace(place=len(notes)))) is not None:
            notes.append(_read_note(payload) if payload else None)
        return notes

    async def _payload(self, part: Part) -> bytes | None:
        return await last_payload(self._connection, self._stream.name, self._subject_of(part))

    async def begin(self, part: Part) -> None:
        """
        Note that *part* is about to be written.

        Raises:
            NatsUnavailable: it may not be noted; do not write it.

        """
        first = delivery_of(part.messages[0])
        note = Note(first=min(part.sequences), last=max(part.sequences))
        if len(part.messages) == 1:
            note = structs.replace(note, stored_ns=first.stored_ns, deaths=part.deaths + 1)
        await self._write(part, note)

    async def survive(self, part: Part) -> None:
        """
        Strike *part* out: it was written, or refused; what stands behind it on the note remains.

        Raises:
            NatsUnavailable: it may still stand.

        """
        await self._write(part, part.note and part.note.behind(max(part.sequences)))

    async def withdraw(self, part: Part) -> None:
        """
        Have the note as it was before the trial of *part*: nothing came of it.

        Raises:
            NatsUnavailable: the trial may still stand.

        """
        await self._write(part, part.note)

    async def _write(self, part: Part, note: Note | None) -> None:
        payload = b"" if note is None else msgspec.json.encode(note)
        await store(self._connection, self._subject_of(part), payload, {}, stream=self._stream.name)

    def _subject_of(self, part: Part) -> str:
        delivery = delivery_of(part.messages[0])
        block = f"{delivery.stream}.{delivery.consumer}.{delivery.sequence // _BLOCK}"
        return f"{self._stream.prefix}.{block}{f'-{part.place}' if part.place else ''}"


def _narrowest(message: Message, notes: Sequence[Note | None]) -> int | None:
    """Return the place of the note with the fewest messages that holds *message*."""
    holding = [(note.last - note.first, place) for place, note in enumerate(notes) if note and _is_in(message, note)]
    return min(holding)[1] if holding else None


def _slices(part: Part) -> Iterator[Part]:
    note, messages = part.note, part.messages
    step = len(messages) if note is None else max((note.last - note.first + 1) // _SPLIT, 1)
    for start in range(0, len(messages), step):
        yield part._replace(messages=messages[start : start + step])


def _block_of(message: Message, *, in_doubt: int) -> int | None:
    if attempt_of(message) == 1 and (not in_doubt or delivery_of(message).sequence > in_doubt):
        return None
    return delivery_of(message).sequence // _BLOCK


def _is_in(message: Message, note: Note) -> bool:
    return note.first <= delivery_of(message).sequence <= note.last
