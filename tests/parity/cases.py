"""
Bodies at the edges of the wire format, and the differences between the two readers.

A case is a name, a body, and Python's result: an event (True) or `MalformedEvent` (False).  `golden/reads.json` has the
crate's results for the same bodies; `DIFFERENT` lists every case with another result, and the reason.
"""

from __future__ import annotations

import json
from typing import Any, Final

_NATIVE: Final[dict[str, Any]] = {
    "execution_id": 5,
    "event_type": "step.enter",
    "step": "s",
    "status": "STARTED",
    "created_at": "2026-05-31T00:00:00Z",
    "context": {},
}


def _body(**changes: Any) -> bytes:
    """Return a native body with *changes*; a field changed to ... is omitted."""
    return json.dumps({name: value for name, value in (_NATIVE | changes).items() if value is not ...}).encode()


def _with(fields: str) -> bytes:
    """Return a native body with the JSON text *fields* in place of its context."""
    return _body(context=...)[:-1] + b", " + fields.encode() + b"}"


def _nested(levels: int) -> bytes:
    return _with(f'"context": {"[" * levels}{"]" * levels}')


CASES: Final[dict[str, tuple[bytes, bool]]] = {
    "native": (_body(), True),
    "all optionals": (_body(event_id=7, worker_id="w", meta={"a": 1}), True),
    "null optionals": (_body(event_id=None, worker_id=None, meta=None), True),
    "payload alias": (_body(context=..., payload=1), True),
    "context and payload": (_body(payload=1), False),
    "null context": (_body(context=None), True),
    "no context": (_body(context=...), False),
    "no status": (_body(status=...), False),
    "null status": (_body(status=None), False),
    "unknown field": (_body(tomorrow=[1]), True),
    "id as string": (_body(execution_id="5"), True),
    "id as float": (_body(execution_id=5.0), False),
    "id as bool": (_body(execution_id=True), False),
    "largest id": (_body(execution_id=2**63 - 1), True),
    "smallest id": (_body(execution_id=-(2**63)), True),
    "id too large": (_body(execution_id=2**63), False),
    "field twice": (_with('"context": 1, "step": "t"'), True),
    "context twice": (_with('"context": 1, "context": 2'), True),
    "row": (_body(step=..., context=..., node_name="n"), True),
    "name for event_type": (_body(event_type=..., name="n"), True),
    "time: one digit": (_body(created_at="2026-05-31T00:00:00.1Z"), True),
    "time: nanoseconds": (_body(created_at="2026-05-31T00:00:00.123456789Z"), True),
    "time: offset": (_body(created_at="2026-05-31T05:30:00+05:30"), True),
    "time: leap second": (_body(created_at="2026-05-31T00:00:60Z"), True),
    "time: within a leap second": (_body(created_at="2026-05-31T00:00:60.5Z"), True),
    "time: last nanosecond of 9999": (_body(created_at="9999-12-31T23:59:59.999999999Z"), True),
    "time: a blank for T": (_body(created_at="2026-05-31 00:00:00Z"), True),
    "time: no zone": (_body(created_at="2026-05-31T00:00:00"), True),
    "time: small t": (_body(created_at="2026-05-31t00:00:00Z"), True),
    "time: comma": (_body(created_at="2026-05-31T00:00:00,5Z"), False),
    "time: only a date": (_body(created_at="2026-05-31"), False),
    "time: no seconds": (_body(created_at="2026-05-31T00:00Z"), False),
    "time: hour 24": (_body(created_at="2026-05-31T24:00:00Z"), False),
    "time: number": (_body(created_at=1), False),
    "time: year 10000": (_body(created_at="+10000-01-01T00:00:00Z"), False),
    "deepest": (_nested(126), True),
    "one level too deep": (_nested(127), False),
    "far too deep": (_nested(5_000), False),
    "integer beyond u64": (_with(f'"context": {2**64}'), True),
    "integer of 400 digits": (_with(f'"context": 1{"0" * 399}'), False),
    "number beyond a float": (_with('"context": 1e400'), False),
    "small number": (_with('"context": 1e-400'), True),
    "NUL": (_body(context="\x00"), True),
    "lone surrogate": (_body(context="\ud800"), False),
    "lone surrogate in an unknown field": (_body(x="\ud800"), False),
    "invalid UTF-8": (_body(step="@").replace(b"@", b"\xff"), False),
    "invalid UTF-8 in an unknown field": (_body(x="@").replace(b"@", b"\xff"), False),
    "invalid UTF-8 in the first of two": (_body(step="@").replace(b"@", b"\xff")[:-1] + b', "step": "t"}', True),
    "escaped name": (_body().replace(b"execution_id", b"execution_\\u0069d"), True),
    "array": (b"[1]", False),
    "positional": (b'[5,"a","b","c","2026-05-31T00:00:00Z",{},null,null,null]', False),
    "empty": (b"", False),
    "byte order mark": (b"\xef\xbb\xbf" + _body(), False),
    "garbage behind": (_body() + b"x", False),
    "truncated": (_body()[:-1], False),
    "NaN": (_with('"context": NaN'), False),
    "leading zero": (_with('"context": 01'), False),
    "control character": (_with('"context": "\t"'), False),
}

DIFFERENT: Final[dict[str, str]] = {
    "id as string": "other NoETL writers send ids so",
    "field twice": "the last wins here",
    "context twice": "the last wins here",
    "row": "the shape of other NoETL writers",
    "name for event_type": "an alias of other NoETL writers",
    "time: no zone": "UTC, as other NoETL writers mean it",
    "time: small t": "RFC 3339 allows it",
    "time: year 10000": "outside what a datetime holds",
    "lone surrogate in an unknown field": "the crate skips what it does not know; a sink may keep the body",
    "invalid UTF-8 in an unknown field": "likewise",
    "invalid UTF-8 in the first of two": "the last wins here, and the first is not looked at",
    "positional": "serde reads a struct from an array too; nobody writes one",
}
