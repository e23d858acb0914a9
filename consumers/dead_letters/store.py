"""
Dead letters: messages that could not be delivered, kept whole in a stream of their own (see `letter` for the format).

`DeadLetters` writes them.  `DeadLetterReader` lists, reads and removes letters, for the operator of the stream.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from consumers.dead_letters.letter import compressed, headers_of, read_letter
from noetl_events.jetstream.declarations import DEAD_LETTERS, DEAD_STREAM
from noetl_events.jetstream.errors import MessageTooLarge
from noetl_events.jetstream.message import delivery_of
from noetl_events.jetstream.storage import find_stored, read_stored, remove_stored, store, stored_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from consumers.dead_letters.letter import Kind, Letter
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.message import Message
    from noetl_events.jetstream.storage import Stored

Dead: TypeAlias = "tuple[Message, Kind, str]"

_AT_ONCE: Final = 100


class DeadLetters:
    """
    The writer of dead letters: they have a stream of their own, because a stream has one duplicate window only.

    Args:
        connection: connection to NATS; the caller closes it.
        prefix: prefix of the subjects, which the kind follows.
        stream: name of the stream that must store them; empty for any stream with these subjects.

    """

    def __init__(self, connection: Connection, *, prefix: str = DEAD_LETTERS.prefix, stream: str = "") -> None:
        self._connection = connection
        self._prefix = prefix
        self._stream = stream

    async def publish_all(self, dead: list[Dead]) -> None:
        """
        Store messages as dead letters, each with its kind and reason, and remove those that are stored from *dead*.

        Raises:
            NatsUnavailable: those left in *dead* may not be stored; do not acknowledge them, and retry later.

        """
        while dead:
            batch = dead[:_AT_ONCE]
            outcomes = await asyncio.gather(*(self.publish(*each) for each in batch), return_exceptions=True)
            dead[: len(batch)] = [each for each, outcome in zip(batch, outcomes, strict=True) if outcome is not None]
            for outcome in outcomes:
                if outcome is not None:
                    raise outcome

    async def publish(self, message: Message, kind: Kind, reason: str) -> None:
        """
        Store *message* as a dead letter; storing it again has no effect.

        Raises:
            NatsUnavailable: the letter may not be stored; do not acknowledge the message, and retry later.

        """
        await self.publish_stored(stored_of(message), kind, reason, consumer=delivery_of(message).consumer)

    async def publish_stored(self, stored: Stored, kind: Kind, reason: str, *, consumer: str) -> None:
        """
        Store a message as a dead letter that was read from its stream, and not delivered by *consumer*.

        Raises:
            NatsUnavailable: the letter may not be stored; retry later.

        """
        subject, headers = f"{self._prefix}.{kind}", headers_of(stored, kind, reason, consumer=consumer)
        try:
            await store(self._connection, subject, stored.data, headers, stream=self._stream, usual=DEAD_STREAM)
        except MessageTooLarge:
            body, headers = compressed(stored.data, headers)
            await store(self._connection, subject, body, headers, stream=self._stream, usual=DEAD_STREAM)


class LetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """
    A filter of dead letters; by default it matches all.

    Args:
        kinds: kinds to match.
        reason: text within the reason, in any case.
        since: earliest time of storing the letter.
        until: end of that time, exclusive.
        execution: execution id in the body, even if the body is no valid event.
        limit: largest number of letters; None for all.

    """

    kinds: tuple[str, ...] = ()
    reason: str = ""
    since: datetime | None = None
    until: datetime | None = None
    execution: int | None = None
    limit: int | None = None

    def matches(self, letter: Letter) -> bool:
        """Return whether *letter* matches, regardless of the limit."""
        return (
            (not self.kinds or letter.kind in self.kinds)
            and self.reason.casefold() in letter.reason.casefold()
            and (self.since is None or letter.buried_at >= self.since)
            and (self.until is None or letter.buried_at < self.until)
            and (self.execution is None or _execution(letter.body) == self.execution)
        )


class DeadLetterReader:
    """
    The reader of a stream of dead letters.

    Args:
        connection: connection to NATS; the caller closes it.
        stream: name of the stream.

    """

    def __init__(self, connection: Connection, *, stream: str = DEAD_STREAM) -> None:
        self.stream = stream
        self._connection = connection

    async def letters(self, wanted: LetterFilter, *, distinct: bool = False) -> AsyncGenerator[Letter, None]:
        """
        Yield the present letters oldest first; without bodies, unless *wanted* needs them.

        With *distinct*, a message with two letters, because the stream had forgotten its id, is yielded once.
        Close the generator (`contextlib.aclosing`) when leaving early.

        Raises:
            NatsUnavailable: the letters cannot be read now.

        """
        headers_only = wanted.execution is None
        seen: set[str] = set()
        found = 0
        reading = read_stored(self._connection, self.stream, since=wanted.since, headers_only=headers_only)
        async with aclosing(reading):
            async for stored in reading:
                letter = read_letter(stored)
                if wanted.matches(letter) and letter.identity not in seen:
                    if distinct:
                        seen.add(letter.identity)
                    found += 1
                    yield letter
                if found == wanted.limit:
                    return

    async def find(self, sequence: int) -> Letter | None:
        """
        Return the complete letter with this sequence, or None if there is none.

        Raises:
            NatsUnavailable: the letter cannot be read now.

        """
        stored = await find_stored(self._connection, self.stream, sequence)
        return None if stored is None else read_letter(stored)

    async def remove(self, sequence: int) -> bool:
        """
        Delete the letter with this sequence permanently, and return whether it was there.

        Raises:
            NatsUnavailable: the letter may or may not be deleted.

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
