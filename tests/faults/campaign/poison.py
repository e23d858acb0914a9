"""Bodies that must become dead letters: each kind makes one from a sound event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import Raw, structs

from noetl_events import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from noetl_events import ExecutorEvent

# The name of a unique index of the campaign on an entry of `meta`; a row that is no event has this entry.
CLAIM: Final = "claim"
TAKEN: Final = "taken"

# The depth includes the envelope; serde reads one level less.
_TOO_DEEP: Final = 128


def _torn(event: ExecutorEvent) -> bytes:
    return encode(event)[:-1]


def _floating(event: ExecutorEvent) -> bytes:
    whole = b'"event_id":%d' % (event.event_id or 0)
    return encode(event).replace(whole, whole + b".0")


def _twice(event: ExecutorEvent) -> bytes:
    return b'{"payload":{},' + encode(event).removeprefix(b"{")


def _deep(event: ExecutorEvent) -> bytes:
    levels = _TOO_DEEP - 1
    return _with(event, context=Raw(b"[" * levels + b"]" * levels))


def _nul(event: ExecutorEvent) -> bytes:
    return _with(event, context={"text": "a\0b"})


def _claiming(event: ExecutorEvent) -> bytes:
    return _with(event, meta={CLAIM: TAKEN})


def _with(event: ExecutorEvent, **fields: Any) -> bytes:
    return encode(structs.replace(event, **fields))


MALFORMED: Final[dict[str, Callable[[ExecutorEvent], bytes]]] = {
    "a torn body": _torn,
    "a floating number as id": _floating,
    "`context` and `payload`": _twice,
    "one level too many": _deep,
}
"""Bodies that are no event for any reader."""

REFUSED: Final[dict[str, Callable[[ExecutorEvent], bytes]]] = {
    "a NUL": _nul,
    "a double in another index": _claiming,
}
"""Events that Postgres refuses as a row."""
