"""A number for an event, however its JSON is written: see `noetl_events.canonical_json`."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from noetl_events.canonical_json import decode_canonical, encode_canonical

if TYPE_CHECKING:
    from noetl_events.envelope import ExecutorEvent


def checksum(event: ExecutorEvent) -> int:
    """
    Return a signed 64-bit number that all nine fields of *event* go into; *context* and *meta* are `msgspec.Raw`.

    Raises:
        ValueError: *context* or *meta* hold no JSON.
        RecursionError: they are nested deeper than an event can be.

    """
    context, meta = _payload(event)
    return _number(
        event.execution_id,
        event.event_id,
        event.event_type,
        event.step,
        event.status,
        event.created_at,
        context,
        event.worker_id,
        meta,
    )


def checksum_of_frame(event: ExecutorEvent) -> int:
    """Return a number that type, step and worker of *event* go into."""
    return _number(event.event_type, event.step, event.worker_id)


def checksum_of_payload(event: ExecutorEvent) -> int:
    """
    Return a number that status, *context* and *meta* of *event* go into.

    Raises:
        ValueError: *context* or *meta* hold no JSON.
        RecursionError: they are nested deeper than an event can be.

    """
    return _number(event.status, *_payload(event))


def _payload(event: ExecutorEvent) -> tuple[Any, Any]:
    return decode_canonical(event.context), None if event.meta is None else decode_canonical(event.meta)


def _number(*fields: Any) -> int:
    return int.from_bytes(blake2b(encode_canonical(fields), digest_size=8).digest(), signed=True)
