"""What a check says."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

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
