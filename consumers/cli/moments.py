"""Moments as people give them: a time, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_AGE: Final = re.compile(r"([0-9]{1,6})([smhd])")


def read_duration(option: str, text: str) -> float:
    """
    Return the seconds *text* names, such as `90s`, `30m`, `2h` or `7d`.

    Raises:
        ValueError: it names none; the message begins with *option*.

    """
    if age := _AGE.fullmatch(text):
        return timedelta(**{_UNITS[age[2]]: int(age[1])}).total_seconds()
    raise ValueError(f"{option}: {text!r} is no duration such as 90s, 30m, 2h or 7d")


def read_moment(option: str, text: str, *, now: datetime | None = None) -> datetime:
    """
    Return the moment *text* names: RFC 3339, in UTC without a zone, or an age such as `30m`, `2h` or `7d`.

    Raises:
        ValueError: it names none; the message begins with *option*.

    """
    try:
        if age := _AGE.fullmatch(text):
            return (now or datetime.now(UTC)) - timedelta(**{_UNITS[age[2]]: int(age[1])})
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{option}: {text!r} is neither a time such as 2026-05-31T03:14:15Z nor an age such as 30m, 2h or 7d"
        ) from None
