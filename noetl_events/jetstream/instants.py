"""The server's times: nanoseconds as RFC 3339 and back, since a datetime ends at microseconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

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
