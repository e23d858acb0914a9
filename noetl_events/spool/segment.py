"""
Records in a file, each provable by itself.

    u32 length | u32 CRC-32 of the body | body            little-endian, the body is an event on the wire

No length is 0: blocks a file system never wrote read as zeros, and must not read as records.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD: Final = struct.Struct("<II")
_HEADS: Final = re.compile(rb"(?s)(?=(?!\0\0\0)...\0)")
"""Where a record below 16 MiB may begin."""


def pack(body: bytes) -> bytes:
    """Return *body*, which is not empty, as a record."""
    return _HEAD.pack(len(body), crc32(body)) + body


def unpack(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each whole record of *data*: where it ends, and its body.  What is torn or damaged ends it."""
    start = 0
    while body := _body_at(data, start):
        start += _HEAD.size + len(body)
        yield start, body


def missing(data: bytes) -> int:
    """Return how many bytes the record begun in *data* still lacks, by its own length; 0 if it is all there."""
    if len(data) < _HEAD.size:
        return _HEAD.size - len(data)
    length: int = _HEAD.unpack_from(data)[0]
    return max(0, _HEAD.size + length - len(data))


def is_torn(rest: bytes) -> bool:
    """Return whether *rest*, which begins with no whole record, is what a write cut short leaves behind."""
    # A record that is longer than the rest was cut off, unless whole ones follow: then its length is what is damaged.
    is_cut = missing(rest) > 0 and not any(_body_at(rest, head.start()) for head in _HEADS.finditer(rest, 1))
    return is_cut or not rest.strip(b"\0")


def _body_at(data: bytes, start: int) -> bytes:
    if start + _HEAD.size > len(data):
        return b""
    length, checksum = _HEAD.unpack_from(data, start)
    if length > len(data) - start - _HEAD.size:
        return b""
    body = data[start + _HEAD.size : start + _HEAD.size + length]
    return body if len(body) == length and crc32(body) == checksum else b""
