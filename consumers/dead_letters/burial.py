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
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote

from noetl_events.jetstream.delivery import delivery_of
from noetl_events.jetstream.errors import MessageTooLarge
from noetl_events.jetstream.instants import rfc3339
from noetl_events.jetstream.store import store
from noetl_events.jetstream.stored import stored_of
from noetl_events.jetstream.topology import DEAD_LETTERS, DEAD_STREAM

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.delivery import Message
    from noetl_events.jetstream.stored import Stored

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
