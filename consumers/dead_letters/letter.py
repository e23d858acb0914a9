"""A dead letter as its reader sees it: `consumers.dead_letters` writes what this reads."""

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
"""The header of a letter sent again that names the first place of its message."""

_KEPT: Final = "Noetl-Header-"
# The largest message a NATS server can be set to take.
_MAX_BODY: Final = 64 * 1024 * 1024


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """
    One dead letter; what its headers do not say is empty.

    Args:
        sequence: its number, in the dead-letter stream.
        buried_at: when it was stored there.
        kind: why it is dead, in a word; any word.
        reason: in a sentence.
        subject: the message was published to.
        stream: that held the message.
        origin_sequence: its place there, in digits.
        origin_time: when it was stored there, RFC 3339 with nanoseconds.
        consumer: that could not settle it.
        size: of the body as it is stored, in bytes.
        headers: the message had.
        body: of the message; empty when only headers were read.

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
        """Where the message was: sequences start again in a stream created anew, with the time they are unique."""
        return f"{self.stream}:{self.origin_sequence}:{self.origin_time}"

    @property
    def first_place(self) -> str:
        """Where the message was before any letter about it was sent again."""
        return self.headers.get(FIRST) or self.place

    @property
    def identity(self) -> str:
        """What two burials of one message have in common; a letter that names no place is only itself."""
        return f"{self.consumer}:{self.place}" if self.origin_sequence else f"#{self.sequence}"

    @property
    def derived_id(self) -> int | None:
        """The id a projector derives for the message when its body has none; None when the letter names no place."""
        try:
            return derived_id(unix_nanoseconds(self.origin_time) // 1_000_000, int(self.origin_sequence))
        except ValueError:
            return None

    def new_id(self, event_id: int) -> int | None:
        """
        Return another id for the event of the message, which has *event_id*; None when the letter names no place.

        It follows from the first place of the message, so that all letters about one message agree on it, and from the
        id it replaces, so that one that collides too is replaced by yet another.
        """
        place = self.first_place
        drawn = blake2b(f"{place}:{event_id}".encode(), digest_size=8).digest()
        try:
            stored_ms = unix_nanoseconds(place.split(":", 2)[2]) // 1_000_000
        except (IndexError, ValueError):
            return None
        return derived_id(stored_ms, int.from_bytes(drawn))


def read_letter(stored: Stored) -> Letter:
    """Return the dead letter in *stored*; whatever somebody put into the stream is one."""
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
