"""
Ownership of what a consumer delivers: the pin of an exclusive consumer, and the stream a message came from.

The pin (ADR-42): the server serves the one puller whose requests carry it.

    no pin     ask for one message without an id; the server lets all but one of the pullers wait
    pinned     a message came with `Nats-Pin-Id`: ask with this id, again and again, or the server pins another
    lost       status 423: another puller is pinned now, ask without an id again

An acknowledgement names a sequence and not the stream it belongs to.  So a stream that was deleted and created anew
takes the acknowledgement of an old message for one of its own message at that sequence (nats-server 2.15).
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
    """Our pin on a consumer, if we have it."""

    def __init__(self) -> None:
        self.id = ""
        self.is_fresh = False
        """Whether the consumer has not started again for us yet."""

        self._brought_new = 0
        self._next = 0

    def is_new_in(self, message: Message) -> bool:
        """Take the pin *message* brings; return whether we had another or none."""
        given = (message.headers or {}).get(_HEADER, "")
        if not given or given == self.id:
            return False
        self.id, self.is_fresh = given, True
        delivery = delivery_of(message)
        self._brought_new = delivery.sequence if delivery.attempt == 1 else 0
        return True

    def before(self, delivered: int) -> int:
        """Return how far others had been served, given that by now the consumer has *delivered* up to a sequence."""
        return delivered - 1 if delivered == self._brought_new else delivered

    def start_again(self) -> None:
        """Note that the consumer has started again for us, and counts its deliveries from 1."""
        self.is_fresh = False
        self._next = 1

    def misses_one_before(self, message: Message) -> bool:
        """Take the count of *message*; return whether the delivery before it has not come."""
        number, expected = number_of(message), self._next
        self._next = number + 1
        return number != expected

    def lose(self) -> None:
        """Note that it is somebody else's."""
        self.id = ""

    def arguments(self) -> dict[str, Any]:
        """Return what a pull request has to say of it."""
        return {"group": GROUP} | ({"id": self.id} if self.id else {})


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
