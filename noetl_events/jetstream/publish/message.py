"""
Outgoing messages: their encoding, the call that waits for them, and the counts of a publisher.

Many messages go into one write, because nats-py's `publish` checks the subject, builds the headers and awaits for each
message: half of the cost of a batch.
"""

from __future__ import annotations

import asyncio
import re
import time
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
    Counts since the publisher was created.

    Args:
        stored: messages the stream has acknowledged.
        refused: messages the stream will never accept.
        batches: batches acknowledged as a whole.
        sent_again: messages sent again because their first outcome was unknown.
        fell_back: 1 once the stream has shown that it accepts no batches.

    """

    stored: int = 0
    refused: int = 0
    batches: int = 0
    sent_again: int = 0
    fell_back: int = 0


ID_HEADER: Final = "Nats-Msg-Id"
# The stream identifies a message by this header; further headers would cost every reader.
_HEAD: Final = f"NATS/1.0\r\n{ID_HEADER}: %b\r\n%b\r\n".encode()


class Outgoing:
    """
    A message to be published.

    Args:
        subject: subject to publish to.
        message_id: value of `Nats-Msg-Id`; the stream stores each id once within its duplicate window.
        body: payload.
        ordering_key: key of the messages that keep their order, for example an execution.  A stream that accepts
            batches keeps it despite failures; of plain publishes one may be lost while the next is stored.
        index: index in the batch of its call, by which a refusal names the message.
        lines: further headers, each with its line end.

    Raises:
        ValueError: *subject* is not a valid subject.

    """

    __slots__ = (
        "body",
        "call",
        "deadline",
        "encoded_subject",
        "has_outcome",
        "head",
        "index",
        "message_id",
        "ordering_key",
        "size",
        "subject",
    )

    def __init__(
        self, subject: str, message_id: bytes, body: bytes, ordering_key: int, *, index: int = 0, lines: bytes = b""
    ) -> None:
        self.subject = subject
        self.encoded_subject = encoded_subject(subject)
        self.message_id = message_id
        self.body = body
        self.ordering_key = ordering_key
        self.index = index
        self.head = _HEAD % (message_id, lines)
        self.size = len(self.head) + len(body)
        self.has_outcome = False
        self.deadline = 0.0
        self.call: Call

    def is_finished(self) -> bool:
        """Return True if the outcome is known, or the call has failed or was cancelled."""
        return self.has_outcome or self.call.done.done()

    def store(self) -> None:
        """Record that the stream has stored the message."""
        self.has_outcome = True
        self.call.count_outcome()

    def refuse(self, reason: str) -> None:
        """Record that the stream will never accept the message."""
        self.has_outcome = True
        self.call.refused[self.index] = reason
        self.call.count_outcome()

    def fail(self, kind: type[NatsUnavailable], reason: str) -> None:
        """Fail the whole call of the message; the caller then emits all of it again."""
        self.call.fail(kind(reason))


def unfinished(messages: Iterable[Outgoing]) -> list[Outgoing]:
    """Return the messages of *messages* that still need an outcome."""
    return [message for message in messages if not message.is_finished()]


def deadline_of(messages: Iterable[Outgoing], *, timeout: float = 0.0) -> float:
    """Return the earliest deadline of *messages*, or the time in *timeout* seconds if that is later."""
    return max(time.monotonic() + timeout, min(message.deadline for message in messages))


class Call:
    """Count the messages of one `publish` until each has its outcome."""

    __slots__ = ("_complete", "_left", "done", "is_sent", "refused")

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.refused: dict[int, str] = {}
        self.is_sent = False
        """True if any message of the call was ever sent, so that the stream may have it."""
        self._left = 0
        self._complete = False

    def add(self, message: Outgoing) -> None:
        """Add *message* to the call."""
        message.call = self
        self._left += 1

    def complete(self) -> None:
        """Record that no further message will be added."""
        self._complete = True
        self._finish_if_complete()

    def count_outcome(self) -> None:
        """Record that one message has its outcome."""
        self._left -= 1
        if not self._left:
            self._finish_if_complete()

    def fail(self, exc: BaseException) -> None:
        """Fail the call with *exc*, unless it is finished."""
        if not self.done.done():
            self.done.set_exception(exc)

    def with_state(self, reason: str) -> str:
        """Return *reason* for a failure of the call, preceded by whether the stream may have any of its messages."""
        return f"{'unknown whether stored' if self.is_sent else 'not sent'}: {reason}"

    def close(self) -> None:
        """Cancel the call: its queued messages are not sent."""
        if not self.done.cancel() and not self.done.cancelled():
            # Retrieve the exception, so asyncio does not report it as never retrieved.
            self.done.exception()

    def _finish_if_complete(self) -> None:
        if self._complete and not self._left and not self.done.done():
            if self.refused:
                self.done.set_exception(EventsRejected(self.refused))
            else:
                self.done.set_result(None)


# A blank or a line end in a subject would start the next argument or the next command.
_WORD: Final = re.compile(r"[^\s\x00-\x1f\x7f]+")
# No stream has this name, so a server without batches does not store such a message.
_NO_STREAM: Final = b"NATS/1.0\r\nNats-Expected-Stream: -\r\n\r\n"


async def publish_all(client: DirectClient, messages: Sequence[Outgoing], commands: Iterable[bytes]) -> None:
    """
    Write *messages*, encoded as *commands*, to the socket in their order; the answers come later.

    Raises:
        NatsUnavailable: the client is not connected; nothing was written.

    """
    _require_connection(client)
    encoded = b"".join(commands)
    for message in messages:
        message.call.is_sent = True
    await _write(client, encoded)


async def publish_to_all(client: DirectClient, subjects: Iterable[str], payload: bytes) -> None:
    """
    Write *payload* to the socket once for each of *subjects*, which have to be valid, as those of deliveries are.

    Raises:
        NatsUnavailable: the client is not connected; nothing was written.

    """
    _require_connection(client)
    tail = b" %d\r\n%b\r\n" % (len(payload), payload)
    if encoded := b"".join([b"PUB %b%b" % (subject.encode(), tail) for subject in subjects]):
        await _write(client, encoded)


def _require_connection(client: DirectClient) -> None:
    if not client.is_connected:
        # nats-py would buffer the messages and send them after the reconnection, when their outcome is decided.
        raise NatsUnavailable("cannot send: not connected")


async def _write(client: DirectClient, encoded: bytes) -> None:
    try:
        await client.write(encoded)
    except (NatsError, OSError) as exc:
        raise NatsUnavailable(f"cannot send: {str(exc) or type(exc).__name__}") from exc


@lru_cache(maxsize=1024)
def encoded_subject(subject: str) -> bytes:
    """
    Return *subject* encoded for a command.

    Raises:
        ValueError: *subject* is empty, or contains a blank or a control character.

    """
    if not _WORD.fullmatch(subject):
        raise ValueError(f"subject: {subject!r} is empty, or holds a blank or a control character")
    return subject.encode()


def command(message: Outgoing, reply: bytes) -> bytes:
    """Return *message* as a command with the reply subject *reply*."""
    head, body = message.head, message.body
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (message.encoded_subject, reply, len(head), message.size, head, body)


def command_with(message: Outgoing, headers: bytes, reply: bytes) -> bytes:
    """Return *message* as a command with the header lines *headers*; an empty *reply* requests no answer."""
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
    """Return the command without a message that ends a fast-ingest batch or asks for its state."""
    return b"HPUB %b %b%d.%d.$FI %d %d\r\n%b\r\n" % (
        encoded_subject(subject),
        reply_head,
        seq,
        operation,
        len(_NO_STREAM),
        len(_NO_STREAM),
        _NO_STREAM,
    )
