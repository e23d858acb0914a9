"""
Ownership of deliveries: the pin of an exclusive consumer, and the stream a message came from.

The server serves only the pinned client, which sends the pin's id with its requests (ADR-42):

    no pin     request one message without an id; the server makes all clients but one wait
    pinned     a message had `Nats-Pin-Id`: send each request with this id; without requests the server pins another
    lost       status 423: another client is pinned now, so request without an id again

An acknowledgement names a sequence, but not the incarnation of the stream.  So a stream that was deleted and created
again accepts the acknowledgement of an old message for its own message with that sequence (nats-server 2.15).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from noetl_events.jetstream.consumers import show_consumer
from noetl_events.jetstream.declarations import GROUP
from noetl_events.jetstream.errors import ConsumerMissing
from noetl_events.jetstream.message import delivery_of, number_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from noetl_events.jetstream.message import Message

LOST: Final = "423"
_HEADER: Final = "Nats-Pin-Id"


class Pin:
    """The pin of this client on a consumer, if it has one."""

    def __init__(self) -> None:
        self.id = ""
        self.is_fresh = False
        """True until the consumer has been reset for this pin."""

        self._brought_new = 0
        self._next = 0

    def is_new_in(self, message: Message) -> bool:
        """Store the pin in *message*; return True if it differs from the previous one."""
        given = (message.headers or {}).get(_HEADER, "")
        if not given or given == self.id:
            return False
        self.id, self.is_fresh = given, True
        delivery = delivery_of(message)
        self._brought_new = delivery.sequence if delivery.attempt == 1 else 0
        return True

    def before(self, delivered: int) -> int:
        """Return the last sequence delivered to other clients, of a consumer that has *delivered* up to a sequence."""
        return delivered - 1 if delivered == self._brought_new else delivered

    def restart(self) -> None:
        """Record that the consumer was reset for this client, so its delivery numbers start at 1."""
        self.is_fresh = False
        self._next = 1

    def lacks_delivery_before(self, message: Message) -> bool:
        """Record the delivery number of *message*; return True if the delivery before it is missing."""
        number, expected = number_of(message), self._next
        self._next = number + 1
        return number != expected

    def lose(self) -> None:
        """Record that another client has the pin."""
        self.id = ""

    def arguments(self) -> dict[str, Any]:
        """Return the fields of a pull request that carry the pin."""
        return {"group": GROUP} | ({"id": self.id} if self.id else {})


class ConsumerIncarnation:
    """
    The incarnation of the consumer being read, and the buffered messages of an earlier one.

    Args:
        connection: connection to NATS; it is not closed here.
        consumer: declaration of the consumer.

    """

    def __init__(self, connection: Connection, consumer: ConsumerDeclaration) -> None:
        self._connection = connection
        self._consumer = consumer
        self._created: str | None = None
        self._orphans: set[Message] = set()
        self._is_gone = False

    def is_from(self, created: str) -> bool:
        """Return True if *created* is the creation time of the consumer being read."""
        return created == self._created

    def start(self, created: str, buffered: Iterable[Message]) -> None:
        """Record the incarnation *created*; the *buffered* messages may be from an earlier one, and no others are."""
        if created != self._created:
            self._orphans = set(buffered)
        else:
            self._orphans.intersection_update(buffered)
        self._created, self._is_gone = created, False

    def orphan(self, messages: Iterable[Message]) -> None:
        """Record that *messages* must not be acknowledged: the stream lost them, or has others at their sequences."""
        self._orphans |= set(messages)

    async def is_lost(self) -> bool:
        """
        Request the consumer's state, and return True if it was deleted or created again.

        Raises:
            NatsUnavailable: the server did not answer, or answered with an error.

        """
        try:
            info = await show_consumer(self._connection, self._consumer)
        except ConsumerMissing:
            self._is_gone = True
        else:
            self._is_gone = self._is_gone or info.created != self._created
        return self._is_gone

    def own(self, messages: Iterable[Message]) -> list[Message]:
        """Return those of *messages* that the current consumer has delivered."""
        return [] if self._is_gone else [message for message in messages if message not in self._orphans]
