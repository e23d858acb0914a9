"""What strangers wrote, made safe for a terminal: whatever is not printable could move the cursor or hide a text."""

from __future__ import annotations

import msgspec


def escaped(text: str, *, keep: str = "") -> str:
    r"""Return *text* with all that is not printable, or in *keep*, as in Python: `\x1b`, `\u202e`."""
    return "".join(char if char.isprintable() or char in keep else _in_python(char) for char in text)


def escaped_json(value: object) -> str:
    r"""Return *value* as JSON in one line, equal JSON to any reader, with all that is not printable as `\u001b`."""
    text = msgspec.json.encode(value).decode()
    return "".join(char if char.isprintable() else _in_json(char) for char in text)


def _in_python(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _in_json(char: str) -> str:
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
