"""
Which consumer the messages in hand came from.

An acknowledgement says where a message stands, and not of which stream: one that was deleted and created anew takes
what was delivered before for its own message at that place, which nobody has written yet (nats-server 2.15).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noetl_events.jetstream.consumers import show_consumer
from noetl_events.jetstream.errors import ConsumerMissing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from noetl_events.jetstream.delivery import Message


class Origin:
    """
    The consumer as it was when we began to read it, and the messages that came from an earlier one.

    Args:
        connection: to NATS; it stays open.
        consumer: as declared.

    """

    def __init__(self, connection: Connection, consumer: ConsumerDeclaration) -> None:
        self._connection = connection
        self._consumer = consumer
        self._created: str | None = None
        self._orphans: set[Message] = set()
        self._is_gone = False

    def is_from(self, created: str) -> bool:
        """Whether the consumer we read is the one that was *created* then."""
        return created == self._created

    def begin(self, created: str, buffered: Iterable[Message]) -> None:
        """Read the consumer that was *created* then; what is *buffered*, and nothing else is in hand, may be older."""
        if created != self._created:
            self._orphans = set(buffered)
        else:
            self._orphans.intersection_update(buffered)
        self._created, self._is_gone = created, False

    def orphan(self, messages: Iterable[Message]) -> None:
        """Note that the stream has lost *messages*, or may have others in their places."""
        self._orphans |= set(messages)

    async def is_lost(self) -> bool:
        """
        Look, and return whether another consumer has the name now, or none.

        Raises:
            NatsUnavailable: the server did not answer, or said no.

        """
        try:
            info = await show_consumer(self._connection, self._consumer)
        except ConsumerMissing:
            self._is_gone = True
        else:
            self._is_gone = self._is_gone or info.created != self._created
        return self._is_gone

    def own(self, messages: Iterable[Message]) -> list[Message]:
        """Return those of *messages* that the consumer there is now knows."""
        return [] if self._is_gone else [message for message in messages if message not in self._orphans]
