"""Messages of the stream as server-sent events, and the events the gateway says itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from noetl_events.envelope import MalformedEvent, decode
from noetl_events.jetstream.delivery import delivery_of

if TYPE_CHECKING:
    from noetl_events.jetstream.delivery import Message

HEARTBEAT: Final = b": still there\n\n"
RETRY: Final = b"retry: 1000\n\n"
"""How many milliseconds a client waits before it comes again."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """
    One message, encoded once for all clients.

    Args:
        sequence: in the stream.
        execution_id: of its event.
        event_type: of its event.
        data: the bytes on the wire; empty if the message is no event.

    """

    sequence: int
    execution_id: int
    event_type: str
    data: bytes


class Wanted(msgspec.Struct, frozen=True):
    """
    Which events a client wants; all by default.

    Args:
        execution_id: of this execution.
        event_types: of any of these types.

    """

    execution_id: int | None = None
    event_types: frozenset[str] = frozenset()

    def takes(self, frame: Frame) -> bool:
        """Whether *frame* is one of them."""
        return (self.execution_id is None or frame.execution_id == self.execution_id) and (
            not self.event_types or frame.event_type in self.event_types
        )


def frame_of(message: Message) -> Frame:
    """Return *message* as a frame; what is no event has no bytes: the projector buries it."""
    sequence = delivery_of(message).sequence
    try:
        event = decode(message.data)
    except MalformedEvent:
        return Frame(sequence, 0, "", b"")
    data = b"id: %d\ndata: %b\n\n" % (sequence, one_line(message.data))
    return Frame(sequence, event.execution_id, event.event_type, data)


def one_line(body: bytes) -> bytes:
    """Return JSON without line breaks: they stand between its tokens only, where a space is as good."""
    return body.replace(b"\n", b" ").replace(b"\r", b" ")


def control(name: str, **data: str | int) -> bytes:
    """Return an event that is not in the stream: it has no id, so that a client resumes behind the last one that is."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))
