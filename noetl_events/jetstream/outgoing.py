"""What a publisher carries: messages, and the call that waits for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from noetl_events.jetstream.commands import encoded_subject
from noetl_events.sink import EventsRejected

if TYPE_CHECKING:
    from noetl_events.jetstream.errors import NatsUnavailable

ID_HEADER: Final = "Nats-Msg-Id"
# What the stream knows a message by; more headers would cost every reader.
_HEAD: Final = f"NATS/1.0\r\n{ID_HEADER}: %b\r\n%b\r\n".encode()


class Outgoing:
    """
    One message on its way to the stream.

    Args:
        subject: it is published to.
        message_id: its identity, for `Nats-Msg-Id`; the stream takes each once within its duplicate window.
        body: its payload.
        lane: messages of one lane (an execution, say) keep their order whatever goes wrong, on a stream that takes
            batches; of plain publishes one may be lost and the next not.
        place: in the batch of its call, by which a refusal names it.
        lines: more headers, each with its line end.

    Raises:
        ValueError: *subject* is none.

    """

    __slots__ = (
        "body",
        "call",
        "deadline",
        "encoded_subject",
        "head",
        "lane",
        "message_id",
        "place",
        "sent",
        "settled",
        "size",
        "subject",
    )

    def __init__(
        self, subject: str, message_id: bytes, body: bytes, lane: int, *, place: int = 0, lines: bytes = b""
    ) -> None:
        self.subject = subject
        self.encoded_subject = encoded_subject(subject)
        self.message_id = message_id
        self.body = body
        self.lane = lane
        self.place = place
        self.head = _HEAD % (message_id, lines)
        self.size = len(self.head) + len(body)
        self.sent = False
        self.settled = False
        self.deadline = 0.0
        self.call: Call

    def is_over(self) -> bool:
        """Whether its outcome is known, or nobody waits for it because its call has failed or was cancelled."""
        return self.settled or self.call.done.done()

    def store(self) -> None:
        """Note that the stream has it."""
        self.settled = True
        self.call.settle_one()

    def refuse(self, reason: str) -> None:
        """Note that the stream will never take it."""
        self.settled = True
        self.call.refused[self.place] = reason
        self.call.settle_one()

    def fail(self, kind: type[NatsUnavailable], reason: str) -> None:
        """Fail its whole call: what the caller does next is emit all of it again."""
        self.call.fail(kind(reason))


class Call:
    """The messages of one `publish`, counted until each has its outcome."""

    __slots__ = ("_complete", "_left", "done", "refused")

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.refused: dict[int, str] = {}
        self._left = 0
        self._complete = False

    def add(self, message: Outgoing) -> None:
        """Wait for *message* too."""
        message.call = self
        self._left += 1

    def complete(self) -> None:
        """Note that nothing will be added any more."""
        self._complete = True
        self._finish_if_settled()

    def settle_one(self) -> None:
        """Note that one message has its outcome."""
        self._left -= 1
        if not self._left:
            self._finish_if_settled()

    def fail(self, exc: BaseException) -> None:
        """End the wait with *exc*, unless it is over."""
        if not self.done.done():
            self.done.set_exception(exc)

    def close(self) -> None:
        """Wait for nothing any more: what is still queued of it is not sent."""
        if not self.done.cancel() and not self.done.cancelled():
            # Looked at, so that asyncio does not report a failure that nobody waited for.
            self.done.exception()

    def _finish_if_settled(self) -> None:
        if self._complete and not self._left and not self.done.done():
            if self.refused:
                self.done.set_exception(EventsRejected(self.refused))
            else:
                self.done.set_result(None)
