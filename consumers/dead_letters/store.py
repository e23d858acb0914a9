"""
Dead letters: messages that could not go where they should, kept whole in a stream of their own.

The body is the message as it came.  Headers say the rest: `Noetl-Reason`, `Noetl-Kind`, `Noetl-Subject`,
`Noetl-Stream`, `Noetl-Sequence`, `Noetl-Time` (RFC 3339, nanoseconds), `Noetl-Consumer`, and `Noetl-Header-*` for each
header it had.  The kinds:

    malformed   the body is no event
    rejected    the sink will never take the event
    conflict    the sink has a different event with the same execution_id and event_id
    fatal       a message that ends the process that handles it
    exhausted   delivered as often as its consumer allows, and never acknowledged

A body that no longer fits beside the headers is compressed, and `Noetl-Encoding: zlib` says so.

`Graveyard` lists letters, gets one and removes one, for the operator of the stream.
"""

from __future__ import annotations

import zlib
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote

import msgspec

from consumers.dead_letters.letter import read_letter
from noetl_events.jetstream.declarations import DEAD_LETTERS, DEAD_STREAM
from noetl_events.jetstream.errors import MessageTooLarge
from noetl_events.jetstream.message import delivery_of, rfc3339
from noetl_events.jetstream.storage import find_stored, read_stored, remove_stored, store, stored_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from consumers.dead_letters.letter import Letter
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.message import Message
    from noetl_events.jetstream.storage import Stored

Kind = Literal["malformed", "rejected", "conflict", "fatal", "exhausted"]

_MAX_REASON: Final = 1_000
# What the client sends in the name of a header, besides letters and digits.
_NAME_SIGNS: Final = "!#$%&'*+-.^_`|~"


class DeadLetters:
    """
    The graveyard: a stream of its own, since the server's duplicate window is one a stream.

    Args:
        connection: to NATS; it stays open.
        prefix: of the subjects; the kind follows it.
        stream: name of the stream that has to store them; empty for any that takes these subjects.

    """

    def __init__(self, connection: Connection, *, prefix: str = DEAD_LETTERS.prefix, stream: str = "") -> None:
        self._connection = connection
        self._prefix = prefix
        self._stream = stream

    async def bury(self, message: Message, kind: Kind, reason: str) -> None:
        """
        Return once *message* is stored as a dead letter; burying it again stores nothing more.

        Raises:
            NatsUnavailable: it may not be stored; do not acknowledge it, bury it again later.

        """
        await self.bury_stored(stored_of(message), kind, reason, consumer=delivery_of(message).consumer)

    async def bury_stored(self, stored: Stored, kind: Kind, reason: str, *, consumer: str) -> None:
        """
        Bury, as `bury` does, a message that was read from its stream and not delivered by *consumer*.

        Raises:
            NatsUnavailable: it may not be stored; bury it again later.

        """
        subject, headers = f"{self._prefix}.{kind}", _headers(stored, kind, reason, consumer)
        try:
            await store(self._connection, subject, stored.data, headers, stream=self._stream, usual=DEAD_STREAM)
        except MessageTooLarge:
            compressed = zlib.compress(stored.data)
            headers |= {"Noetl-Encoding": "zlib"}
            await store(self._connection, subject, compressed, headers, stream=self._stream, usual=DEAD_STREAM)


def _headers(stored: Stored, kind: Kind, reason: str, consumer: str) -> dict[str, str]:
    kept = {f"Noetl-Header-{quote(name, safe=_NAME_SIGNS)}": value for name, value in stored.headers.items()}
    return kept | {
        # Sequences start again in a stream created anew; with the time the place is unique.
        "Nats-Msg-Id": f"{consumer}:{stored.sequence}:{stored.stored_ns}",
        "Noetl-Kind": kind,
        "Noetl-Reason": _printable(reason),
        "Noetl-Subject": stored.subject,
        "Noetl-Stream": stored.stream,
        "Noetl-Sequence": str(stored.sequence),
        "Noetl-Time": rfc3339(stored.stored_ns),
        "Noetl-Consumer": consumer,
    }


def _printable(reason: str) -> str:
    return "".join(char if char.isprintable() else " " for char in reason)[:_MAX_REASON]


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
