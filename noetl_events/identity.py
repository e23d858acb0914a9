"""
The identity of events: the key, and a digest of the whole event.

- The **key** of an event is `(execution_id, event_id)`.
- The **digest**, version 1, is BLAKE2b with 8 bytes of output and no further parameters, over the event as
  `noetl_events.envelope.encode` writes it: the nine fields in their order, without those that are None, `created_at` in
  UTC with microseconds, `context` and `meta` byte for byte as sent.  The 8 bytes are read as a signed big-endian
  integer, which fits a `bigint` column.  A later version would use a personalised hash, so that digests of two versions
  are never mistaken for each other.
- The **message id** (`Nats-Msg-Id`) is `<event_id>-<digest in 16 hexadecimal digits>`.  The same event emitted again
  has the same message id; a different event with the same `event_id` has another, so that a stream's duplicate window
  never drops it.  `NatsSink(message_id="event_id")` sends the bare `event_id`, as older publishers do.

Two events with one key and different digests are compared as described in `noetl_events.conflicts`.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final, TypeAlias

from noetl_events.envelope import encode

if TYPE_CHECKING:
    from noetl_events.envelope import ExecutorEvent

Key: TypeAlias = tuple[int, int]
"""Key of an event: `(execution_id, event_id)`."""

_SIZE: Final = 8
# Copying a prepared hash costs less than creating one with parameters.
_new_hash = blake2b(digest_size=_SIZE).copy


def digest(event: ExecutorEvent) -> int:
    """
    Return the digest of *event*, a signed 64-bit integer.

    Raises:
        MalformedEvent: as `noetl_events.envelope.encode`.

    """
    return digest_of_body(encode(event))


def digest_of_body(body: bytes) -> int:
    """Return the digest of the event with the canonical form *body*, as `encode` returns it."""
    return int.from_bytes(digest_bytes_of_body(body), signed=True)


def digest_bytes_of_body(body: bytes) -> bytes:
    """Return `digest_of_body` as its 8 bytes."""
    body_hash = _new_hash()
    body_hash.update(body)
    return body_hash.digest()


def message_id(event_id: int, body: bytes) -> bytes:
    """Return the message id of an event with the id *event_id* and the canonical form *body*."""
    body_hash = _new_hash()
    body_hash.update(body)
    return f"{event_id}-{body_hash.hexdigest()}".encode()
