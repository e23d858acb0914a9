"""
Dead letters: messages that no sink will ever take, kept whole in a stream of their own.

The body is the message as it came.  Headers say the rest: `Noetl-Reason`, `Noetl-Kind` ("malformed" or "rejected"),
`Noetl-Subject`, `Noetl-Stream`, `Noetl-Sequence`, `Noetl-Time` (RFC 3339, nanoseconds), `Noetl-Consumer`, and
`Noetl-Header-*` for each header it had.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

from noetl_events.jetstream.delivery import delivery_of
from noetl_events.jetstream.store import store
from noetl_events.jetstream.topology import DEAD_SUBJECTS

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.delivery import Delivery, Message

Kind = Literal["malformed", "rejected"]

_MAX_REASON: Final = 1_000


class DeadLetters:
    """
    The graveyard: a stream of its own, since the server's duplicate window is one a stream.

    Args:
        connection: to NATS; it stays open.
        prefix: of the subjects; the kind follows it.

    """

    def __init__(self, connection: Connection, *, prefix: str = DEAD_SUBJECTS.removesuffix(".>")) -> None:
        self._connection = connection
        self._prefix = prefix

    async def bury(self, message: Message, kind: Kind, reason: str) -> None:
        """
        Return once *message* is stored as a dead letter; burying it again stores nothing more.

        Raises:
            NatsUnavailable: it may not be stored; do not acknowledge it, bury it again later.

        """
        await store(self._connection, f"{self._prefix}.{kind}", message.data, _headers(message, kind, reason))


def _headers(message: Message, kind: Kind, reason: str) -> dict[str, str]:
    delivery = delivery_of(message)
    kept = {f"Noetl-Header-{name}": value for name, value in (message.headers or {}).items()}
    return kept | {
        # Sequences start again in a stream created anew; with the time the place is unique.
        "Nats-Msg-Id": f"{delivery.consumer}:{delivery.sequence}:{delivery.stored_ns}",
        "Noetl-Kind": kind,
        "Noetl-Reason": _printable(reason),
        "Noetl-Subject": message.subject,
        "Noetl-Stream": delivery.stream,
        "Noetl-Sequence": str(delivery.sequence),
        "Noetl-Time": _rfc3339(delivery),
        "Noetl-Consumer": delivery.consumer,
    }


def _rfc3339(delivery: Delivery) -> str:
    seconds, nanoseconds = divmod(delivery.stored_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def _printable(reason: str) -> str:
    return "".join(char if char.isprintable() else " " for char in reason)[:_MAX_REASON]
