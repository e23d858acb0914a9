"""What a check says."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

MAKE_STREAMS: Final = "noetl-events stream ensure; or set the credentials of the account that has the streams"
"""The remedy where a stream is missing: an account has streams of its own."""

Severity: TypeAlias = Literal["ok", "warning", "fault", "unknown"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """
    One thing that was looked at.

    Args:
        check: that looked.
        severity: "fault" if events may be lost or stand still, "unknown" if it could not be looked at.
        found: in words.
        remedy: a command, or a setting.

    """

    check: str
    severity: Severity
    found: str
    remedy: str = ""
