"""When a segment of a recording is long or old enough."""

from __future__ import annotations

import re
from typing import Final

import msgspec

_BYTES: Final = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_PART: Final = re.compile(r"([1-9][0-9]{0,9})([A-Za-z]{0,3})")
_DEFAULT_BYTES: Final = 64 * 2**20


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """
    The end of a segment, whichever comes first.

    Args:
        size: bytes, to the next whole batch; None for no limit.
        age: seconds since its first event was written; None for no limit.

    """

    size: int | None = _DEFAULT_BYTES
    age: float | None = None


def read_rotation(value: str) -> Rotation:
    """
    Return what `rotate=` says: a size as 100MiB, an age as 1h, or both as 100MiB,1h; "" for 64 MiB.

    Raises:
        ValueError: it is neither, or names one of them twice.

    """
    if not value:
        return Rotation()
    limits: dict[str, int] = {}
    for part in value.split(","):
        name, limit = _read_part(part)
        if name in limits:
            raise ValueError(f"sink URL: rotate={value} gives the {name} twice")
        limits[name] = limit
    return Rotation(size=limits.get("size"), age=limits.get("age"))


def _read_part(part: str) -> tuple[str, int]:
    match = _PART.fullmatch(part)
    for name, units in (("size", _BYTES), ("age", _SECONDS)):
        if match is not None and match[2] in units:
            return name, int(match[1]) * units[match[2]]
    raise ValueError(f"sink URL: rotate={part} is neither a size such as 64MiB nor an age such as 1h")
