"""
The pin of an exclusive consumer (ADR-42): of all who pull, the server serves the one whose requests carry it.

    no pin     ask for one message without an id; the server lets all but one of those who ask wait
    pinned     a message came with `Nats-Pin-Id`: ask with this id, again and again, or the server pins another
    lost       status 423: somebody else is pinned now, ask without an id again
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from noetl_events.jetstream.delivery import Message

GROUP: Final = "projector"
LOST: Final = "423"
_HEADER: Final = "Nats-Pin-Id"


class Pin:
    """Our pin on a consumer, if we have it."""

    def __init__(self) -> None:
        self.id = ""

    def is_new_in(self, message: Message) -> bool:
        """Take the pin *message* brings; return whether we had another or none."""
        given = (message.headers or {}).get(_HEADER, "")
        if not given or given == self.id:
            return False
        self.id = given
        return True

    def lose(self) -> None:
        """Note that it is somebody else's."""
        self.id = ""

    def arguments(self) -> dict[str, Any]:
        """Return what a pull request has to say of it."""
        return {"group": GROUP} | ({"id": self.id} if self.id else {})
