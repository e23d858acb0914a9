"""
The format of a dead letter, written and read.

The body is the body of the message.  The headers are `Noetl-Reason`, `Noetl-Kind`, `Noetl-Subject`, `Noetl-Stream`,
`Noetl-Sequence`, `Noetl-Time` (RFC 3339, nanoseconds), `Noetl-Consumer`, and `Noetl-Header-*` for each header of the
message.  The kinds:

    malformed   the body is no event
    rejected    the sink rejects the event permanently
    conflict    the sink has a different event with the same execution_id and event_id
    fatal       the message kills the process that handles it, or the sink raises an unknown error at this event alone
    exhausted   the consumer delivered the message as often as it may, without an acknowledgement

A body that no longer fits beside the headers is compressed, which `Noetl-Encoding: zlib` marks.
"""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote

import msgspec

from noetl_events.ids import derived_id
from noetl_events.jetstream.message import rfc3339, unix_nanoseconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from noetl_events.jetstream.storage import Stored

Kind = Literal["malformed", "rejected", "conflict", "fatal", "exhausted"]

FIRST: Final = "Noetl-First"
"""The header of a resent dead letter that names the first stream position of its message."""

_KIND: Final = "Noetl-Kind"
_REASON: Final = "Noetl-Reason"
_SUBJECT: Final = "Noetl-Subject"
_STREAM: Final = "Noetl-Stream"
_SEQUENCE: Final = "Noetl-Sequence"
_TIME: Final = "Noetl-Time"
_CONSUMER: Final = "Noetl-Consumer"
_ENCODING: Final = "Noetl-Encoding"
_KEPT: Final = "Noetl-Header-"

_MAX_REASON: Final = 1_000
# Signs that the client accepts in the name of a header, beside letters and digits.
_NAME_SIGNS: Final = "!#$%&'*+-.^_`|~"
# Largest message size that a NATS server can be configured to accept.
_MAX_BODY: Final = 64 * 1024 * 1024


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """
    A dead letter; a field without its header is empty.

    Args:
        sequence: stream sequence of the dead letter.
        buried_at: time at which the dead letter was stored.
        kind: kind of the dead letter; any word.
        reason: reason of the failure, as a sentence.
        subject: subject that the message was published to.
        stream: stream that held the message.
        origin_sequence: stream sequence of the message, in digits.
        origin_time: time at which the message was stored in its stream, RFC 3339 with nanoseconds.
        consumer: consumer that could not process the message.
        size: size of the stored body, in bytes.
        headers: headers of the message.
        body: body of the message; empty if only headers were read.

    """

    sequence: int
    buried_at: datetime
    kind: str
    reason: str
    subject: str
    stream: str
    origin_sequence: str
    origin_time: str
    consumer: str
    size: int
    headers: dict[str, str]
    body: bytes

    @property
    def place(self) -> str:
        """Stream position of the message; the time makes it unique, because a recreated stream reuses sequences."""
        return f"{self.stream}:{self.origin_sequence}:{self.origin_time}"

    @property
    def first_place(self) -> str:
        """Stream position of the message before its first resend."""
        return self.headers.get(FIRST) or self.place

    @property
    def identity(self) -> str:
        """Key that two dead letters of the same message share; unique if the letter names no position."""
        return f"{self.consumer}:{self.place}" if self.origin_sequence else f"#{self.sequence}"

    @property
    def derived_id(self) -> int | None:
        """Event id that a projector derives for a message without one; None if the letter names no position."""
        try:
            return derived_id(unix_nanoseconds(self.origin_time) // 1_000_000, int(self.origin_sequence))
        except ValueError:
            return None

    def new_id(self, event_id: int) -> int | None:
        """
        Return another id for the event, which has *event_id*; None if the letter names no position.

        The id derives from the first position of the message, so all dead letters of one message get the same id.  The
        replaced id is part of the hash too, so a new id that also conflicts is replaced by yet another.
        """
        place = self.first_place
        drawn = blake2b(f"{place}:{event_id}".encode(), digest_size=8).digest()
        try:
            stored_ms = unix_nanoseconds(place.split(":", 2)[2]) // 1_000_000
        except (IndexError, ValueError):
            return None
        return derived_id(stored_ms, int.from_bytes(drawn))


def headers_of(stored: Stored, kind: Kind, reason: str, *, consumer: str) -> dict[str, str]:
    """Return the headers of the dead letter of *stored*, which *consumer* could not process."""
    kept = {f"{_KEPT}{quote(name, safe=_NAME_SIGNS)}": value for name, value in stored.headers.items()}
    return kept | {
        # A recreated stream reuses sequences, so the id also contains the time.
        "Nats-Msg-Id": f"{consumer}:{stored.sequence}:{stored.stored_ns}",
        _KIND: kind,
        _REASON: _printable(reason),
        _SUBJECT: stored.subject,
        _STREAM: stored.stream,
        _SEQUENCE: str(stored.sequence),
        _TIME: rfc3339(stored.stored_ns),
        _CONSUMER: consumer,
    }


def compressed(body: bytes, headers: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """Return the compressed *body*, and *headers* with the mark of that."""
    return zlib.compress(body), {**headers, _ENCODING: "zlib"}


def origin_in(headers: Mapping[str, str], stream: str) -> tuple[int, int] | None:
    """
    Return where the message of a dead letter was stored in *stream*: its sequence, and the time in Unix nanoseconds.

    Return None if the *headers* name another stream, or no sequence and time.
    """
    if headers.get(_STREAM) != stream:
        return None
    try:
        return int(headers.get(_SEQUENCE, "")), unix_nanoseconds(headers.get(_TIME, ""))
    except ValueError:
        return None


def read_letter(stored: Stored) -> Letter:
    """Return the dead letter in *stored*; any message of the stream counts as one."""
    said = stored.headers
    return Letter(
        sequence=stored.sequence,
        buried_at=datetime.fromtimestamp(stored.stored_ns // 1_000 / 1_000_000, UTC),
        kind=said.get(_KIND, ""),
        reason=said.get(_REASON, ""),
        subject=said.get(_SUBJECT, ""),
        stream=said.get(_STREAM, ""),
        origin_sequence=said.get(_SEQUENCE, ""),
        origin_time=said.get(_TIME, ""),
        consumer=said.get(_CONSUMER, ""),
        size=stored.size,
        headers={name.removeprefix(_KEPT): value for name, value in said.items() if name.startswith(_KEPT)},
        body=_body(stored),
    )


def _body(stored: Stored) -> bytes:
    if stored.headers.get(_ENCODING) != "zlib" or not stored.data:
        return stored.data
    try:
        return zlib.decompressobj().decompress(stored.data, _MAX_BODY)
    except zlib.error:
        return stored.data


def _printable(reason: str) -> str:
    return "".join(char if char.isprintable() else " " for char in reason)[:_MAX_REASON]
