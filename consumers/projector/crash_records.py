"""
Crash records: find the event that kills its process.

A redelivered message was in flight when a process or a connection died.  Any of thousands of messages may be the cause,
so redelivered messages are written in blocks, each with a crash record in a stream of its own.  The record names the
messages before they are written, and is cleared after the write, or restored if the write has failed.  Only the death
of the process leaves it: a kill, a lack of memory, an error in native code.  A record that was left contains the cause:
its messages are retried in parts of a twenty-fifth, and in the end one by one.  A message that was written alone at two
deaths is the cause.  Messages of the block outside every record get a record of their own in another slot, because they
may contain a second cause.  Clearing one crash record never clears another.

    block of 500 ─ died ─► parts of 20 ─ died ─► one by one ─ died ─► once more ─ died ─► dead letter

A process has a projector for each destination and for each partition, and all die together.  So a death counts against
an event only if no other projector was writing: a lock is shared by normal writes and held exclusively for a suspect
event.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from msgspec import structs

from noetl_events.jetstream.declarations import TRIALS
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.message import attempt_of, delivery_of
from noetl_events.jetstream.storage import last_payload, store
from noetl_events.retry import Backoff, Retry
from noetl_events.sink import SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration
    from noetl_events.jetstream.message import Message

_BLOCK: Final = 500
_SPLIT: Final = 25
_FATAL_DEATHS: Final = 2
# Timeout in seconds for restoring the crash record when the write has failed or the task is cancelled.
_RESTORE_TIMEOUT: Final = 1.0
_RESTORE_BACKOFF: Final = Backoff(initial=0.05, maximum=0.2)
_GATE_TIMEOUT: Final = 10.0

FATAL: Final = f"the process died {_FATAL_DEATHS} times while it wrote this event alone"


class CrashRecord(msgspec.Struct, frozen=True, kw_only=True):
    """
    A crash record: the range of stream sequences that contains the cause of a death.

    Args:
        first: stream sequence of the first message.
        last: stream sequence of the last message.
        stored_ns: time at which the stream stored a single message, in Unix nanoseconds: sequences may restart.
        deaths: number of deaths while a single message was written.

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
        is_suspect: whether the messages were redelivered, so that they need a crash record.
        record: crash record that covers the messages, if there is one.
        slot: slot of that record within its block.

    """

    messages: list[Message]
    is_suspect: bool = False
    record: CrashRecord | None = None
    slot: int = 0

    @property
    def sequences(self) -> list[int]:
        """Stream sequences of the messages; redeliveries do not always arrive in order."""
        return [delivery_of(message).sequence for message in self.messages]

    @property
    def deaths(self) -> int:
        """Number of recorded deaths while the only message was written; 0 for several messages."""
        if self.record is None or len(self.messages) > 1 or self.record.first != self.record.last:
            return 0
        alone, record = delivery_of(self.messages[0]), self.record
        return record.deaths if (alone.sequence, alone.stored_ns) == (record.first, record.stored_ns) else 0

    @property
    def is_fatal(self) -> bool:
        """True if the message must not be written again."""
        return self.deaths >= _FATAL_DEATHS


def blocks_of(messages: Sequence[Message], *, in_doubt: int = 0) -> Iterator[Group]:
    """
    Yield *messages* in their order: new ones as one group, redelivered ones by block.

    All messages up to sequence *in_doubt* count as redelivered, whatever their delivery count.
    """
    for block, group in groupby(messages, partial(_block_of, in_doubt=in_doubt)):
        yield Group(list(group), block is not None)


def _block_of(message: Message, *, in_doubt: int) -> int | None:
    if attempt_of(message) == 1 and (not in_doubt or delivery_of(message).sequence > in_doubt):
        return None
    return delivery_of(message).sequence // _BLOCK


_decode = msgspec.json.Decoder(CrashRecord).decode


class CrashRecords:
    """
    The crash records of a process, shared by all of its projectors.

    Args:
        connection: connection to NATS; the caller closes it.
        stream: stream that stores the records.

    """

    def __init__(self, connection: Connection, stream: StreamDeclaration = TRIALS) -> None:
        self._connection = connection
        self._stream = stream
        self._gate = ExclusiveGate()

    async def split(self, block: Group) -> list[Group]:
        """
        Return *block* split into the groups to write now, in its order; a group of new messages stays whole.

        Raises:
            NatsUnavailable: the records cannot be read.

        """
        if not block.is_suspect:
            return [block]
        records = await self._records(block)
        free = next(slot for slot, record in enumerate([*records, None]) if record is None)
        groups: list[Group] = []
        for covering, messages in groupby(block.messages, partial(_slot_of, records=records)):
            record, slot = (None, free) if covering is None else (records[covering], covering)
            groups += _slices(Group(list(messages), is_suspect=True, record=record, slot=slot))
        return groups

    async def _records(self, block: Group) -> list[CrashRecord | None]:
        """Return the crash records of *block* by slot, None where a record was cleared."""
        records: list[CrashRecord | None] = []
        while (payload := await self._payload(block._replace(slot=len(records)))) is not None:
            records.append(_decode(payload) if payload else None)
        return records

    async def _payload(self, group: Group) -> bytes | None:
        return await last_payload(self._connection, self._stream.name, self._subject_of(group))

    @asynccontextmanager
    async def attempt(self, group: Group) -> AsyncIterator[None]:
        """
        Hold the lock, and for a suspect group also a crash record, while *group* is written.

        Raises:
            SinkUnavailable: another projector of the process writes for too long; nothing is recorded, retry.
            NatsUnavailable: the record cannot be stored; retry.

        """
        if not group.is_suspect:
            async with self._gate.shared():
                yield
            return
        # A death counts against an event only if no other projector of this process was writing.
        async with self._gate.exclusive() if len(group.messages) == 1 else self._gate.shared():
            try:
                await self.record(group)
                yield
                await self.clear(group)
            except (Exception, asyncio.CancelledError):
                # The process lives, so the attempt shows nothing about the events.
                with suppress(TimeoutError):
                    async with asyncio.timeout(_RESTORE_TIMEOUT):
                        await self._restore(group)
                raise

    async def record(self, group: Group) -> None:
        """
        Record that *group* is about to be written.

        Raises:
            NatsUnavailable: the record may not be stored; do not write the messages.

        """
        record = CrashRecord(first=min(group.sequences), last=max(group.sequences))
        if len(group.messages) == 1:
            stored_ns = delivery_of(group.messages[0]).stored_ns
            record = structs.replace(record, stored_ns=stored_ns, deaths=group.deaths + 1)
        await self._store(group, record)

    async def clear(self, group: Group) -> None:
        """
        Clear *group* from its crash record after its write; messages behind it stay recorded.

        Raises:
            NatsUnavailable: the record may still be there.

        """
        await self._store(group, group.record and group.record.behind(max(group.sequences)))

    async def _restore(self, group: Group) -> None:
        async for attempt in Retry(NatsUnavailable, backoff=_RESTORE_BACKOFF):
            with attempt:
                await self._store(group, group.record)

    async def _store(self, group: Group, record: CrashRecord | None) -> None:
        payload = b"" if record is None else msgspec.json.encode(record)
        await store(self._connection, self._subject_of(group), payload, {}, stream=self._stream.name)

    def _subject_of(self, group: Group) -> str:
        delivery = delivery_of(group.messages[0])
        block = f"{delivery.stream}.{delivery.consumer}.{delivery.sequence // _BLOCK}"
        return f"{self._stream.prefix}.{block}{f'-{group.slot}' if group.slot else ''}"


def _slot_of(message: Message, records: Sequence[CrashRecord | None]) -> int | None:
    """Return the slot of the smallest record that contains *message*."""
    sequence = delivery_of(message).sequence
    holding = [
        (record.last - record.first, slot)
        for slot, record in enumerate(records)
        if record and record.first <= sequence <= record.last
    ]
    return min(holding)[1] if holding else None


def _slices(group: Group) -> Iterator[Group]:
    record, messages = group.record, group.messages
    step = len(messages) if record is None else max((record.last - record.first + 1) // _SPLIT, 1)
    for start in range(0, len(messages), step):
        yield group._replace(messages=messages[start : start + step])


class ExclusiveGate:
    """
    A lock for the projectors of one process: shared for normal writes, exclusive for one suspect event.

    Args:
        patience: timeout in seconds for acquiring the lock, so that a destination that hangs does not block the rest
            for ever.

    """

    def __init__(self, *, patience: float = _GATE_TIMEOUT) -> None:
        self._patience = patience
        self._lock = asyncio.Lock()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._writing = 0

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """
        Hold the lock shared: writes run concurrently, but not beside an exclusive one.

        Raises:
            SinkUnavailable: the exclusive lock was held for too long; retry.

        """
        await self._in_time(self._lock.acquire())
        self._lock.release()
        self._writing += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self._writing -= 1
            if not self._writing:
                self._is_idle.set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """
        Hold the lock exclusively.

        Raises:
            SinkUnavailable: the lock was held for too long; retry.

        """
        await self._in_time(self._lock.acquire())
        try:
            await self._in_time(self._is_idle.wait())
            yield
        finally:
            self._lock.release()

    async def _in_time(self, turn: Coroutine[None, None, bool]) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await turn
        except TimeoutError:
            reason = "an event must be written alone, and a write to another destination or partition does not end"
            raise SinkUnavailable(reason) from None
