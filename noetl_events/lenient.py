"""
A reader of event bodies in the forms of other NoETL writers, field by field.

- Aliases: `payload` for `context`, `name` for `event_type`, `node_name` for `step`.
- Ids as decimal strings.
- Times without a zone (UTC), with another zone, with 1 to 9 fraction digits, with a leap second.
- Rows (a body with `node_name`): `context` may be missing, and columns without a field in the envelope go to `meta`
  under their own names, in place of values of the same name in `meta`.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import Raw

from noetl_events.json_values import (
    MAX_INT64,
    MIN_INT64,
    Json,
    MalformedEvent,
    encode_value,
    explain,
    require_sound,
    shortened,
)

_ALIASES: Final = {"context": "payload", "event_type": "name", "step": "node_name"}
_FIELDS: Final = frozenset(
    ("execution_id", "event_type", "step", "status", "created_at", "context", "event_id", "worker_id", "meta")
)
_MAX_SHOWN: Final = 80
_NULL: Final = Raw(b"null")
_DECIMAL: Final = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_LEAP_SECOND: Final = re.compile(r"(.*:[0-5][0-9]:)60(?:\.[0-9]+)?(.*)")
_NANOSECONDS: Final = re.compile(r"(.*\.[0-9]{6})[0-9]{1,3}(.*)")

_split = msgspec.json.Decoder(dict[str, Raw]).decode


def read_fields(data: bytes) -> dict[str, Any]:
    """
    Return the arguments of the `ExecutorEvent` in *data*.

    Raises:
        MalformedEvent: *data* is no event; the message names the field, its value and the expected form.

    """
    body = _read_body(data)
    names = {field: _name_used(field, body) for field in _FIELDS}
    raws = {name: raw for name, raw in body.items() if name in names.values()}
    values = {name: require_sound(name, raw) for name, raw in body.items()}
    return {
        "execution_id": _int64(names["execution_id"], values),
        "event_type": _text(names["event_type"], values),
        "step": _text(names["step"], values),
        "status": _text(names["status"], values),
        "created_at": _time(names["created_at"], values),
        "context": _context(names["context"], body),
        "event_id": _int64("event_id", values) if values.get("event_id") is not None else None,
        "worker_id": _text("worker_id", values) if values.get("worker_id") is not None else None,
        "meta": _meta(body, values, {name: raw for name, raw in body.items() if name not in raws}),
    }


def in_utc(moment: datetime) -> datetime:
    """
    Return *moment* in UTC; without a zone it is taken as UTC.

    Raises:
        MalformedEvent: *moment* is outside the years 1 to 9999 in UTC.

    """
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise MalformedEvent(f"created_at: {moment} is outside the years 1 to 9999 in UTC") from None


def _read_body(data: bytes) -> dict[str, Raw]:
    try:
        return _split(data)
    except msgspec.ValidationError:
        raise MalformedEvent("body: not a JSON object") from None
    except (ValueError, RecursionError, OverflowError) as exc:
        raise MalformedEvent(_name_surrogate(data) or f"body: {explain(exc)}") from None


def _name_surrogate(data: bytes) -> str | None:
    """Return an error text for a field with half a surrogate pair, which only the standard library can locate."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return None
    for name, value in body.items() if isinstance(body, dict) else ():
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return f"{shortened(ascii(name)[1:-1])}: a lone surrogate, half a character"
    return None


def _name_used(field: str, body: dict[str, Raw]) -> str:
    alias = _ALIASES.get(field, field)
    if field == "context" and field in body and alias in body:
        raise MalformedEvent("context: given twice, as `context` and as `payload`; send one")
    return alias if alias in body and field not in body else field


def _required(name: str, values: dict[str, Json]) -> Json:
    if name not in values:
        raise MalformedEvent(f"{name}: missing, and required")
    return values[name]


def _text(name: str, values: dict[str, Json]) -> str:
    value = _required(name, values)
    if not isinstance(value, str):
        raise MalformedEvent(f"{name}: {_show(value)} is not a string")
    return value


def _int64(name: str, values: dict[str, Json]) -> int:
    value = _required(name, values)
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = int(value)
    if type(value) is not int:
        raise MalformedEvent(f"{name}: {_show(value)} is not an integer or a string of up to 20 decimal digits")
    if not MIN_INT64 <= value <= MAX_INT64:
        raise MalformedEvent(f"{name}: {_show(value)} is outside signed 64 bits")
    return value


def _time(name: str, values: dict[str, Json]) -> datetime:
    text = _LEAP_SECOND.sub(r"\g<1>59.999999\2", _text(name, values))
    # Rounding up the last nanoseconds of the year 9999 would exceed a datetime, so these digits are cut instead.
    for candidate in (text, _NANOSECONDS.sub(r"\1\2", text)):
        try:
            return in_utc(msgspec.convert(candidate, datetime))
        except msgspec.ValidationError:
            continue
    raise MalformedEvent(f"{name}: {_show(values[name])} is not an RFC 3339 time such as 2026-05-31T03:14:15.123456Z")


def _context(name: str, body: dict[str, Raw]) -> Raw:
    if name in body:
        return body[name]
    if "node_name" in body:
        return _NULL
    raise MalformedEvent("context: missing, and required")


def _meta(body: dict[str, Raw], values: dict[str, Json], others: dict[str, Raw]) -> Raw | None:
    meta = values.get("meta")
    if not others or "node_name" not in body:
        return None if meta is None else body["meta"]
    own = _split(body["meta"]) if isinstance(meta, dict) else {} if meta is None else {"meta": body["meta"]}
    merged = Raw(encode_value(own | others))
    require_sound("meta", merged)
    return merged


def _show(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
