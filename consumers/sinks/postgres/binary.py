"""
Values in the binary format of COPY: each field is its length in four bytes, then its bytes; -1 is NULL.

Nothing has to be escaped on this side or parsed on the other, which halves what a row costs both.
"""

from __future__ import annotations

from datetime import UTC, datetime
from struct import Struct
from typing import Final

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"
NULL: Final = b"\xff\xff\xff\xff"
JSONB_VERSION: Final = 1

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)

_pack_length = Struct(">i").pack
_pack_bigint = Struct(">iq").pack
_pack_jsonb = Struct(">iB").pack


class Texts(dict[str | None, bytes]):
    """
    The text fields of one batch: its events share a few types, steps and statuses, so most are a look-up.

    One for each batch, so that it never holds more than the batch does.
    """

    def __init__(self) -> None:
        super().__init__({None: NULL})

    def __missing__(self, text: str) -> bytes:
        encoded = text.encode()
        self[text] = field = _pack_length(len(encoded)) + encoded
        return field


def bigint(value: int | None) -> bytes:
    """Return a field of type bigint."""
    return NULL if value is None else _pack_bigint(8, value)


def jsonb(text: bytes | None) -> bytes:
    """Return a field of type jsonb: its JSON text behind the number of the format."""
    return NULL if text is None else _pack_jsonb(len(text) + 1, JSONB_VERSION) + text


def timestamp(moment: datetime) -> bytes:
    """Return a field of type timestamptz, or of timestamp in UTC: microseconds since 2000, exactly."""
    return _pack_bigint(8, microseconds(moment))


def microseconds(moment: datetime) -> int:
    """Return the microseconds from the year 2000 to *moment*."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
