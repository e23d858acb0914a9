"""Which events go together in one request."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import msgspec

from noetl_events.envelope import ExecutorEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_EVENTS: Final = 256
MAX_BYTES: Final = 2 * 2**20
"""What NoETL takes in one request.  A longer event is posted alone: the server says whether it takes it."""


class Encoded(msgspec.Struct, frozen=True):
    """An event, its wire form, and its places in the batch: the same event may stand there more than once."""

    event: ExecutorEvent
    body: bytes
    places: list[int]


class Request(msgspec.Struct, frozen=True):
    """Events of one execution, in their order: one for the single endpoint, several for that of batches."""

    events: Sequence[Encoded]

    @property
    def is_batch(self) -> bool:
        """Whether the answer speaks of several events."""
        return len(self.events) > 1

    def body(self) -> bytes:
        """Return what is posted."""
        if not self.is_batch:
            return self.events[0].body
        return _head(self.events) + b",".join(event.body for event in self.events) + b"]}"

    def singles(self) -> Iterator[Request]:
        """Yield a request for each of the events."""
        for event in self.events:
            yield Request([event])


def requests_of(events: Iterable[Encoded]) -> Iterator[Request]:
    """Yield *events* of one execution in as few requests as the limits allow."""
    chosen: list[Encoded] = []
    room = 0
    for event in events:
        # With the comma before it, which the first has not.
        size = len(event.body) + 1
        if chosen and (len(chosen) == MAX_EVENTS or size > room):
            yield Request(chosen)
            chosen = []
        room = (room if chosen else MAX_BYTES - len(_head([event])) - len(b"]}") + len(b",")) - size
        chosen.append(event)
    if chosen:
        yield Request(chosen)


def idempotency_key(body: bytes) -> str:
    """Return what names this content, whenever it is sent again."""
    return blake2b(body, digest_size=16).hexdigest()


def _head(events: Sequence[Encoded]) -> bytes:
    first = events[0].event
    head: dict[str, int | str] = {"execution_id": first.execution_id}
    # Of all or of none: whoever reads it takes it for that of every event.
    if first.worker_id is not None and all(event.event.worker_id == first.worker_id for event in events):
        head["worker_id"] = first.worker_id
    return msgspec.json.encode(head)[:-1] + b',"events":['
