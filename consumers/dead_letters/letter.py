"""The dead letter as read from its stream; `consumers.dead_letters.store` writes this format."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import msgspec

from noetl_events.ids import derived_id
from noetl_events.jetstream.message import unix_nanoseconds

if TYPE_CHECKING:
    from noetl_events.jetstream.storage import Stored

FIRST: Final = "Noetl-First"
"""The header of a resent dead letter that names the first stream position of its message."""

_KEPT: Final = "Noetl-Header-"
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


def read_letter(stored: Stored) -> Letter:
    """Return the dead letter in *stored*; any message of the stream counts as one."""
    said = stored.headers
    return Letter(
        sequence=stored.sequence,
        buried_at=datetime.fromtimestamp(stored.stored_ns // 1_000 / 1_000_000, UTC),
        kind=said.get("Noetl-Kind", ""),
        reason=said.get("Noetl-Reason", ""),
        subject=said.get("Noetl-Subject", ""),
        stream=said.get("Noetl-Stream", ""),
        origin_sequence=said.get("Noetl-Sequence", ""),
        origin_time=said.get("Noetl-Time", ""),
        consumer=said.get("Noetl-Consumer", ""),
        size=stored.size,
        headers={name.removeprefix(_KEPT): value for name, value in said.items() if name.startswith(_KEPT)},
        body=_body(stored),
    )


def _body(stored: Stored) -> bytes:
    if stored.headers.get("Noetl-Encoding") != "zlib" or not stored.data:
        return stored.data
    try:
        return zlib.decompressobj().decompress(stored.data, _MAX_BODY)
    except zlib.error:
        return stored.data
