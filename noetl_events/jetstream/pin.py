"""
The pin of an exclusive consumer (ADR-42): of all who pull, the server serves the one whose requests carry it.

    no pin     ask for one message without an id; the server lets all but one of those who ask wait
    pinned     a message came with `Nats-Pin-Id`: ask with this id, again and again, or the server pins another
    lost       status 423: somebody else is pinned now, ask without an id again
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from noetl_events.jetstream.delivery import delivery_of, number_of

if TYPE_CHECKING:
    from noetl_events.jetstream.delivery import Message

GROUP: Final = "projector"
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
