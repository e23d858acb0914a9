"""A number for an event, however its JSON is written: see `noetl_events.canonical_json`."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

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
    fields = (
        event.execution_id,
        event.event_id,
        event.event_type,
        event.step,
        event.status,
        event.created_at,
        decode_canonical(event.context),
        event.worker_id,
        None if event.meta is None else decode_canonical(event.meta),
    )
    return int.from_bytes(blake2b(encode_canonical(fields), digest_size=8).digest(), signed=True)
