"""
A delivered message: its event, and its position in the stream, read from the ack subject (ADR-15, both forms).

The server's times are RFC 3339 with nanoseconds.  A datetime has only microseconds, so they are converted here.
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
    Return the Unix nanoseconds of a UTC time with up to nine fraction digits, as servers write it.

    Raises:
        ValueError: *text* is not such a time.

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
"""Header with the name of the only consumer a message is addressed to."""

_FIRST_FORM_TOKENS: Final = 9
# Headers of delete markers, schedules and counters; the second tuple: of roll-ups and deletions, which have no body.
_MARKED: Final = ("Nats-Marker-Reason", "Nats-Schedule", "Nats-Incr", "Nats-Counter-Sources")
_MARKED_IF_EMPTY: Final = ("Nats-Rollup", "KV-Operation")
_STATUS: Final = re.compile(r"[1-5][0-9]{2}")


class NoPublisher(MalformedEvent):
    """The message is no event and no publisher sent it: the server stores its own notes in the stream."""


class Message(Protocol):
    """A delivered message, from nats-py or straight from its parser."""

    @property
    def subject(self) -> str:
        """Subject the message was published to."""

    @property
    def reply(self) -> str:
        """Reply subject for the acknowledgement."""

    @property
    def data(self) -> bytes:
        """Payload."""

    @property
    def headers(self) -> dict[str, str] | None:
        """Headers; None without any."""


class Delivery(msgspec.Struct, frozen=True):
    """
    A delivery of a message.

    Args:
        stream: name of the stream.
        consumer: name of the consumer.
        attempt: number of the attempt to deliver this message, from 1.
        sequence: stream sequence of the message.
        stored_ns: time of storing in Unix nanoseconds, by the server's clock.
        pending: number of later messages that match the consumer.
        number: number of the delivery, counted by the consumer from 1.

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
        """Time of storing in Unix milliseconds."""
        return self.stored_ns // 1_000_000


def ack_subjects(stream: str, consumer: str) -> re.Pattern[str]:
    """
    Return a pattern for whole ack subjects of *consumer*; a message with another reply is none of its deliveries.

    Any client may publish to an inbox.  The pattern rejects its messages, unless they copy an ack subject.
    """
    ours = rf"{re.escape(stream)}\.{re.escape(consumer)}"
    # Each message is matched, so the common form comes first, and the digits never backtrack.
    return re.compile(
        rf"\$JS\.ACK\.(?:{ours}|[^.]+\.[^.]+\.{ours})"
        r"\.[0-9]{1,19}+\.[0-9]{1,19}+\.[0-9]{1,19}+\.[0-9]{1,19}+\.[0-9]{1,19}+(?:\.[^.]+)?"
    )


def recipient_of(message: Message) -> str:
    """
    Return the consumer that *message* is addressed to; empty if it is for all.

    A resent dead letter is addressed to the consumer that rejected it, because the others have stored its event.
    """
    if isinstance(message, Arrival) and not message.may_have(FOR):
        return ""
    return (message.headers or {}).get(FOR, "")


def status_of(message: Message) -> tuple[str, str]:
    """Return the three-digit status and the description of a status message; empty strings for other messages."""
    headers = message.headers or {}
    status = headers.get("Status", "")
    # The server's own status messages have no body.
    if message.data or not _STATUS.fullmatch(status):
        return "", ""
    return status, headers.get("Description", "")


def delivery_of(message: Message) -> Delivery:
    """
    Return the fields of the ack subject of *message*, which must match `ack_subjects`.

    `$JS.ACK.<stream>.<consumer>.<attempt>.<sequence>.<consumer sequence>.<time>.<pending>`; the second form has domain
    and account before the stream, and may have another token at the end.
    """
    tokens = message.reply.split(".")
    if len(tokens) > _FIRST_FORM_TOKENS:
        tokens = [*tokens[:2], *tokens[4:]]
    stream, consumer, attempt, sequence, number, stored, pending = tokens[2:_FIRST_FORM_TOKENS]
    return Delivery(stream, consumer, int(attempt), int(sequence), int(stored), int(pending), int(number))


def event_of(message: Message) -> ExecutorEvent:
    """
    Return the event in *message*; an event without an id gets an id derived from its position in the stream.

    Raises:
        NoPublisher: the message is a delete marker, a schedule or similar.
        MalformedEvent: the message is no event.

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
    """Return True if the headers of *message* show that the server wrote it, or processes it itself."""
    headers = message.headers or {}
    names = _MARKED if message.data else (*_MARKED, *_MARKED_IF_EMPTY)
    return any(name in headers for name in names)


def attempt_of(message: Message) -> int:
    """Return only the *attempt* of `delivery_of`, for code that checks every message."""
    tokens = message.reply.split(".")
    return int(tokens[4 if len(tokens) <= _FIRST_FORM_TOKENS else 6])


def number_of(message: Message) -> int:
    """Return only the *number* of `delivery_of`, for code that checks every message."""
    tokens = message.reply.split(".")
    return int(tokens[6 if len(tokens) <= _FIRST_FORM_TOKENS else 8])


class Arrival:
    """A received message; its headers are parsed on access."""

    __slots__ = ("_head", "data", "reply", "subject")

    def __init__(self, subject: str, reply: str, data: bytes, head: bytes | None) -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self._head = head

    @property
    def headers(self) -> dict[str, str] | None:
        """Headers, with `Status` and `Description` for messages of the server itself; None without any."""
        return read_headers(self._head) if self._head else None

    def may_have(self, name: str) -> bool:
        """Return True if the headers may contain *name*, without parsing them."""
        return self._head is not None and name.encode() in self._head


def read_headers(head: bytes) -> dict[str, str]:
    """Return the headers in *head*: `NATS/1.0[ <status>[ <description>]]`, then lines; the last of a name counts."""
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
