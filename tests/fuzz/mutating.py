"""Inputs made from other inputs: bytes flipped, cut, doubled, spliced, and words of the wire format misplaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

_WORDS: Final = (
    b'"execution_id":', b'"event_type":', b'"step":', b'"status":', b'"created_at":', b'"context":', b'"payload":',
    b'"event_id":', b'"worker_id":', b'"meta":', b'"node_name":', b'"name":', b'"events":', b"null", b"true", b"-0",
    b"1e400", b"-1e-400", b"9223372036854775808", b"-9223372036854775808", b"18446744073709551616", b'"5"', b"5.0",
    b"\\ud800", b"\\udc00", b"\\u0000", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"[[", b"]]", b"{", b"}", b",", b":",
    b'"', b"2026-05-31T23:59:60Z", b"9999-12-31T23:59:59.9999999Z", b"0001-01-01T00:00:00+23:59", b"+00:00", b"NaN",
    b"0" * 320, b"[" * 130, b'{"a":' * 130, b"\n", b"\x00", b" ",
)  # fmt: skip
_LONGEST: Final = 20_000


def mutated(draw: Random, corpus: Sequence[bytes]) -> bytes:
    """Return an input of *corpus* with a small change, or two of them combined."""
    data = draw.choice(corpus)
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        data = draw.choice(_CHANGES)(draw, data, corpus)
    return data[:_LONGEST]


def _flip(draw: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    place = draw.randrange(len(data) + 1)
    return data[:place] + bytes([draw.randrange(256)]) + data[place + 1 :]


def _cut(draw: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, end = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + data[end:]


def _double(draw: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, end = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[start:end] + data[end:]


def _put_word(draw: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    place = draw.randrange(len(data) + 1)
    return data[:place] + draw.choice(_WORDS) + data[place + draw.choice((0, 0, 1, 4, 20)) :]


def _replace_value(draw: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Put a word in place of the value behind a colon: most results are still JSON."""
    colons = [place for place, byte in enumerate(data) if byte == ord(":")]
    if not colons:
        return data
    start = draw.choice(colons) + 1
    ends = [end for sign in b",}]" if (end := data.find(sign, start)) > 0]
    return data[:start] + draw.choice(_WORDS) + data[min(ends, default=start) :]


def _splice(draw: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    other = draw.choice(corpus)
    return data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other) + 1) :]


_CHANGES: Final[tuple[Callable[[Random, bytes, Sequence[bytes]], bytes], ...]] = (
    _flip, _cut, _double, _put_word, _put_word, _replace_value, _replace_value, _splice,
)  # fmt: skip
