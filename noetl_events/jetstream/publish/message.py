"""
Messages on their way to the server: their encoding, the call that waits for them, and the counts of a publisher.

Many messages go in one write.  nats-py's `publish` looks at each subject, builds each header and awaits once a message:
half of what a batch costs.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec
from nats.errors import Error as NatsError

from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.sink import EventsRejected

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from noetl_events.jetstream.client import DirectClient


class PublishCounts(msgspec.Struct, kw_only=True):
    """
    Counted since the publisher was made.

    Args:
        stored: messages the stream has acknowledged.
        refused: messages it will never take.
        batches: acknowledged whole.
        sent_again: messages whose first outcome was unknown.
        fell_back: 1 once the stream has shown that it takes no batches.

    """

    stored: int = 0
    refused: int = 0
    batches: int = 0
    sent_again: int = 0
    fell_back: int = 0


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


# A blank or a line end in a subject would be read as the next argument, or the next command.
_WORD: Final = re.compile(r"[^\s\x00-\x1f\x7f]+")
# No stream is called this: a server without batches stores no such message.
_NOWHERE: Final = b"NATS/1.0\r\nNats-Expected-Stream: -\r\n\r\n"


async def publish_all(client: DirectClient, messages: Sequence[Outgoing], commands: Iterable[bytes]) -> None:
    """
    Hand *messages*, encoded as *commands*, to the socket in their order; their answers come later.

    Raises:
        NatsUnavailable: the connection is not there; nothing was handed over.

    """
    _require_connection(client)
    encoded = b"".join(commands)
    for message in messages:
        message.sent = True
    await _write(client, encoded)


async def publish_to_all(client: DirectClient, subjects: Iterable[str], payload: bytes) -> None:
    """
    Hand *payload* to the socket once for each of *subjects*, which must be sound: those of deliveries are.

    Raises:
        NatsUnavailable: the connection is not there; nothing was handed over.

    """
    _require_connection(client)
    tail = b" %d\r\n%b\r\n" % (len(payload), payload)
    if encoded := b"".join([b"PUB %b%b" % (subject.encode(), tail) for subject in subjects]):
        await _write(client, encoded)


def _require_connection(client: DirectClient) -> None:
    if not client.is_connected:
        # nats-py would keep them and send them after the reconnection, when their outcome was long decided.
        raise NatsUnavailable("cannot send: not connected")


async def _write(client: DirectClient, encoded: bytes) -> None:
    try:
        await client.write(encoded)
    except (NatsError, OSError) as exc:
        raise NatsUnavailable(f"cannot send: {str(exc) or type(exc).__name__}") from exc


@lru_cache(maxsize=1024)
def encoded_subject(subject: str) -> bytes:
    """
    Return *subject* as it stands in a command.

    Raises:
        ValueError: it is empty, or holds a blank or a control character.

    """
    if not _WORD.fullmatch(subject):
        raise ValueError(f"subject: {subject!r} is empty, or holds a blank or a control character")
    return subject.encode()


def command(message: Outgoing, reply: bytes) -> bytes:
    """Return *message* as a command whose answer goes to *reply*."""
    head, body = message.head, message.body
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (message.encoded_subject, reply, len(head), message.size, head, body)


def command_with(message: Outgoing, headers: bytes, reply: bytes) -> bytes:
    """Return *message* as a command with the lines *headers* added; an empty *reply* asks for no answer."""
    head, body = message.head[:-2] + headers + b"\r\n", message.body
    address = b"%b %b" % (message.encoded_subject, reply) if reply else message.encoded_subject
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (address, len(head), len(head) + len(body), head, body)


def batch_command(message: Outgoing, reply_head: bytes, seq: int, operation: int) -> bytes:
    """Return *message* as a command of a fast-ingest batch."""
    head, body = message.head, message.body
    return b"HPUB %b %b%d.%d.$FI %d %d\r\n%b%b\r\n" % (
        message.encoded_subject,
        reply_head,
        seq,
        operation,
        len(head),
        message.size,
        head,
        body,
    )


def control_command(subject: str, reply_head: bytes, seq: int, operation: int) -> bytes:
    """Return the command that ends a fast-ingest batch, or asks about it, and is no message."""
    return b"HPUB %b %b%d.%d.$FI %d %d\r\n%b\r\n" % (
        encoded_subject(subject),
        reply_head,
        seq,
        operation,
        len(_NOWHERE),
        len(_NOWHERE),
        _NOWHERE,
    )
