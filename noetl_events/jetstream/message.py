"""
A delivered message: the event in it, and its place in the stream, read from the ack subject (ADR-15, both forms).

The server's times are nanoseconds in RFC 3339.  A datetime ends at microseconds, so they are read and written here.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec
from msgspec import structs

from noetl_events.envelope import ExecutorEvent, decode
from noetl_events.ids import derived_id
from noetl_events.json_values import MalformedEvent

_SECOND: Final = 1_000_000_000


def rfc3339(nanoseconds: int) -> str:
    """Return Unix *nanoseconds* as `2026-05-31T03:14:15.123456789Z`."""
    seconds, fraction = divmod(nanoseconds, _SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def unix_nanoseconds(text: str) -> int:
    """
    Return the Unix nanoseconds of a time in UTC with up to nine fraction digits, as servers write it.

    Raises:
        ValueError: *text* is no such time.

    """
    moment, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(f"{moment}+00:00").timestamp())
    return seconds * _SECOND + int(fraction[:9].ljust(9, "0"))


__all__ = [
    "FOR",
    "Delivery",
    "Message",
    "NoPublisher",
    "ack_subjects",
    "attempt_of",
    "delivery_of",
    "event_of",
    "is_of_no_publisher",
    "number_of",
    "recipient_of",
    "status_of",
]

FOR: Final = "Noetl-For"
"""The header that names the one consumer a message is for."""

_FIRST_FORM_TOKENS: Final = 9
# Of delete markers, schedules and counters; and of roll-ups and deletions, which have no body.
_MARKED: Final = ("Nats-Marker-Reason", "Nats-Schedule", "Nats-Incr", "Nats-Counter-Sources")
_MARKED_IF_EMPTY: Final = ("Nats-Rollup", "KV-Operation")
_STATUS: Final = re.compile(r"[1-5][0-9]{2}")


class NoPublisher(MalformedEvent):
    """The message holds no event, and was never meant to: the server keeps its own notes in the stream."""


class Message(Protocol):
    """A message as it was delivered, by nats-py or straight from its parser."""

    @property
    def subject(self) -> str:
        """It was published to."""

    @property
    def reply(self) -> str:
        """Where it is acknowledged."""

    @property
    def data(self) -> bytes:
        """What it holds."""

    @property
    def headers(self) -> dict[str, str] | None:
        """What is said about it."""


class Delivery(msgspec.Struct, frozen=True):
    """
    One delivery of one message.

    Args:
        stream: it is stored in.
        consumer: it was delivered to.
        attempt: from 1 up.
        sequence: in the stream.
        stored_ns: Unix nanoseconds, by the server's clock.
        pending: messages after it that match the consumer.
        number: of the delivery, counted by the consumer from 1 up.

    """

    stream: str
    consumer: str
    attempt: int
    sequence: int
    stored_ns: int
    pending: int
    number: int

    @property
    def stored_ms(self) -> int:
        """Unix milliseconds at which the stream stored it."""
        return self.stored_ns // 1_000_000


def ack_subjects(stream: str, consumer: str) -> re.Pattern[str]:
    """
    Return what matches the ack subjects of *consumer* in full: a message with another reply is none of its deliveries.

    Any client may publish to an inbox.  This tells its messages apart; one that copies an ack subject is not found out.
    """
    ours = rf"{re.escape(stream)}\.{re.escape(consumer)}"
    # Each message is matched: the common form comes first, and no digit is looked at twice.
    return re.compile(
        rf"\$JS\.ACK\.(?:{ours}|[^.]+\.[^.]+\.{ours})"
        r"\.[0-9]{1,19}+\.[0-9]{1,19}+\.[0-9]{1,19}+\.[0-9]{1,19}+\.[0-9]{1,19}+(?:\.[^.]+)?"
    )


def recipient_of(message: Message) -> str:
    """
    Return the consumer that *message* is for, empty if it is for all.

    A dead letter that is sent again is for the consumer that buried it: the others have stored its event.
    """
    if isinstance(message, Arrival) and not message.may_say(FOR):
        return ""
    return (message.headers or {}).get(FOR, "")


def status_of(message: Message) -> tuple[str, str]:
    """Return the status of three digits that *message* is, and its description; empty if it is none."""
    headers = message.headers or {}
    status = headers.get("Status", "")
    # The server's own have no body.
    if message.data or not _STATUS.fullmatch(status):
        return "", ""
    return status, headers.get("Description", "")


def delivery_of(message: Message) -> Delivery:
    """
    Return what the ack subject of *message* says, which must be one of `ack_subjects`.

    `$JS.ACK.<stream>.<consumer>.<attempt>.<sequence>.<consumer sequence>.<time>.<pending>`; the second form puts domain
    and account before the stream and may add a token at the end.
    """
    tokens = message.reply.split(".")
    if len(tokens) > _FIRST_FORM_TOKENS:
        tokens = [*tokens[:2], *tokens[4:]]
    stream, consumer, attempt, sequence, number, stored, pending = tokens[2:_FIRST_FORM_TOKENS]
    return Delivery(stream, consumer, int(attempt), int(sequence), int(stored), int(pending), int(number))


def event_of(message: Message) -> ExecutorEvent:
    """
    Return the event *message* holds; one that came without an id gets the one derived from its place in the stream.

    Raises:
        NoPublisher: it is a delete marker, a schedule or the like.
        MalformedEvent: it holds none.

    """
    try:
        event = decode(message.data)
    except MalformedEvent as exc:
        if is_of_no_publisher(message):
            raise NoPublisher(str(exc)) from None
        raise
    if event.event_id is not None:
        return event
    delivery = delivery_of(message)
    return structs.replace(event, event_id=derived_id(delivery.stored_ms, delivery.sequence))


def is_of_no_publisher(message: Message) -> bool:
    """Return whether the headers of *message* say that the server wrote it, or reads it itself."""
    headers = message.headers or {}
    names = _MARKED if message.data else (*_MARKED, *_MARKED_IF_EMPTY)
    return any(name in headers for name in names)


def attempt_of(message: Message) -> int:
    """Return the *attempt* of `delivery_of` alone, for who looks at every message."""
    tokens = message.reply.split(".")
    return int(tokens[4 if len(tokens) <= _FIRST_FORM_TOKENS else 6])


def number_of(message: Message) -> int:
    """Return the *number* of `delivery_of` alone, likewise."""
    tokens = message.reply.split(".")
    return int(tokens[6 if len(tokens) <= _FIRST_FORM_TOKENS else 8])


class Arrival:
    """A message as it came; its headers are read when they are looked at."""

    __slots__ = ("_head", "data", "reply", "subject")

    def __init__(self, subject: str, reply: str, data: bytes, head: bytes | None) -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self._head = head

    @property
    def headers(self) -> dict[str, str] | None:
        """The headers, with `Status` and `Description` when the server itself speaks; None if there are none."""
        return read_headers(self._head) if self._head else None

    def may_say(self, name: str) -> bool:
        """Return whether a header *name* may be among the headers, without reading them."""
        return self._head is not None and name.encode() in self._head


def read_headers(head: bytes) -> dict[str, str]:
    """Return the headers in *head*: `NATS/1.0[ <status>[ <description>]]`, and a line each; of a name the last."""
    first, *lines = head.decode(errors="surrogateescape").split("\r\n")
    _, _, spoken = first.partition(" ")
    headers: dict[str, str] = {}
    if spoken:
        headers["Status"], _, headers["Description"] = spoken.partition(" ")
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name] = value.strip()
    return headers
