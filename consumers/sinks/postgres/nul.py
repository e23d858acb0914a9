r"""
NUL, which JSON text may hold and Postgres cannot: U+FFFD in its place, where `?on_nul=replace` asks for it.

In JSON a NUL is the escape `\u0000`.  In `\\u0000` the backslash itself is escaped, and no NUL is meant.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec import Raw, structs

from noetl_events.envelope import checked

if TYPE_CHECKING:
    from noetl_events.envelope import ExecutorEvent
    from noetl_events.json_values import Json

# Escaped backslashes are matched too, so that the scan passes over them in pairs.
_ESCAPE: Final = re.compile(rb"\\\\|\\u0000")
_TEXTS: Final = ("event_type", "step", "status", "worker_id")


def without_nul(event: ExecutorEvent) -> ExecutorEvent:
    """
    Return *event* without NUL; the same object if it has none.

    Raises:
        MalformedEvent: as `checked`.

    """
    if type(event.context) is not Raw or not (event.meta is None or type(event.meta) is Raw):
        event = checked(event)
    changes: dict[str, Json] = {
        name: text.replace("\0", "\N{REPLACEMENT CHARACTER}")
        for name in _TEXTS
        if type(text := getattr(event, name)) is str and "\0" in text
    }
    for name in ("context", "meta"):
        raw = getattr(event, name)
        if raw is not None and b"\\u0000" in (text := bytes(raw)):
            changes[name] = Raw(_ESCAPE.sub(_replace, text))
    return structs.replace(event, **changes) if changes else event


def _replace(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape[0] == rb"\u0000" else escape[0]
