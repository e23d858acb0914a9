"""
The event envelope and its wire form: one JSON object per message, as serde writes the Rust crate's `ExecutorEvent`.

`decode` reads the crate's own form in one typed pass.  Bodies that this pass refuses (aliases, ids as strings, times
without a zone, rows) go to `noetl_events.lenient`, which reads field by field and explains malformed bodies.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, structs

from noetl_events.json_values import (
    MAX_INT64,
    MIN_INT64,
    Json,
    MalformedEvent,
    encode_json,
    require_json,
    require_sound,
)
from noetl_events.lenient import in_utc, read_fields

__all__ = [
    "ExecutorEvent",
    "MalformedEvent",
    "checked",
    "decode",
    "encode",
    "encode_checked",
    "with_encoded_payload",
]

Int64 = Annotated[int, Meta(ge=MIN_INT64, le=MAX_INT64)]


class ExecutorEvent(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False
):
    """
    An execution event, with the fields and the field order of the Rust crate's `ExecutorEvent`.

    *context* and *meta* accept any JSON value.  After `decode` they are `msgspec.Raw`, the JSON bytes as received:
    `msgspec.json.decode(event.context)` reads them.  A `Raw` from the caller is trusted to contain JSON.

    The constructor does not check its arguments; `encode` does.
    """

    execution_id: Int64
    event_type: str
    step: str
    status: str
    created_at: datetime
    context: Json
    event_id: Int64 | None = None
    worker_id: str | None = None
    meta: Json = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(ExecutorEvent)


def encode(event: ExecutorEvent) -> bytes:
    """
    Return *event* as the JSON that the Rust crate reads: without fields that are None, the time in UTC with `Z`.

    Raises:
        MalformedEvent: a field has the wrong type, an id is outside 64 bits, or *context* or *meta* contain values that
            JSON lacks (NaN, infinity, a lone surrogate, a set, a date, a key that is no string).

    """
    if not _has_field_types(event):
        raise MalformedEvent(_name_wrong_field(event))
    if event.created_at.tzinfo is not UTC:
        event = structs.replace(event, created_at=in_utc(event.created_at))
    require_json("context", event.context)
    if event.meta is not None:
        require_json("meta", event.meta)
    try:
        return _encoder.encode(event)
    except UnicodeEncodeError:
        raise MalformedEvent(_name_surrogate(event)) from None


def encode_checked(event: ExecutorEvent) -> bytes:
    """
    Return `encode` of an event from `decode` or `checked`, without checking its fields again.

    Raises:
        TypeError: the event is not from these functions, and a field has a type that JSON lacks.
        UnicodeEncodeError: the event is not from these functions, and contains a lone surrogate.

    """
    return _encoder.encode(event)


def decode(data: bytes) -> ExecutorEvent:
    """
    Return the event in *data*, with *context* and *meta* as `msgspec.Raw`.

    Raises:
        MalformedEvent: *data* is no event; no other error is raised.

    """
    try:
        event = _decoder.decode(data)
    except (ValueError, RecursionError, OverflowError):
        return ExecutorEvent(**read_fields(data))
    if event.created_at.tzinfo is not UTC or (event.meta is not None and require_sound("meta", event.meta) is None):
        return ExecutorEvent(**read_fields(data))
    require_sound("context", event.context)
    return event


def checked(event: ExecutorEvent) -> ExecutorEvent:
    """
    Return *event* as `decode` would return it: the time in UTC, *context* and *meta* as `msgspec.Raw`.

    Raises:
        MalformedEvent: as `encode`.

    """
    body = encode(event)
    is_read = type(event.context) is Raw and (event.meta is None or type(event.meta) is Raw)
    return event if is_read and event.created_at.tzinfo is UTC else decode(body)


def with_encoded_payload(event: ExecutorEvent) -> ExecutorEvent:
    """
    Return *event* with encoded `context` and `meta`, so that each retry sends the same bytes.

    Without this, a caller that changes *context* while the event waits for a retry would turn it into another event.

    Raises:
        MalformedEvent: *context* or *meta* contain values that JSON lacks.

    """
    if type(event.context) is Raw and (event.meta is None or type(event.meta) is Raw):
        return event
    meta = None if event.meta is None else Raw(encode_json("meta", event.meta))
    return structs.replace(event, context=Raw(encode_json("context", event.context)), meta=meta)


def _has_field_types(event: Any) -> bool:
    # The parameter is Any, because a struct stores any argument despite its annotations.
    execution_id, event_id = event.execution_id, event.event_id
    return (
        # isinstance accepts a bool as an int, and it would be written as true.
        type(execution_id) is int
        and MIN_INT64 <= execution_id <= MAX_INT64
        and (event_id is None or (type(event_id) is int and MIN_INT64 <= event_id <= MAX_INT64))
        and isinstance(event.event_type, str)
        and isinstance(event.step, str)
        and isinstance(event.status, str)
        and isinstance(event.created_at, datetime)
        and (event.worker_id is None or isinstance(event.worker_id, str))
    )


def _name_wrong_field(event: ExecutorEvent) -> str:
    for field in structs.fields(ExecutorEvent):
        value = getattr(event, field.name)
        try:
            if field.name not in ("context", "meta"):
                msgspec.convert(value, field.type)
        except msgspec.ValidationError as exc:
            return f"{field.name}: {value!r}: {exc}"
    raise AssertionError(event)


def _name_surrogate(event: ExecutorEvent) -> str:
    for field in structs.fields(ExecutorEvent):
        value = getattr(event, field.name)
        if not isinstance(value, datetime):
            encode_json(field.name, value)
    raise AssertionError(event)
