"""
Which copies of an event are the same event: its key, and a digest of everything in it.

- The **key** of an event is `(execution_id, event_id)`.
- The **digest**, version 1, is BLAKE2b with 8 bytes of output and no further parameters, over the event as
  `noetl_events.envelope.encode` writes it: the nine fields in their order, None left out, `created_at` in UTC with
  microseconds, `context` and `meta` byte for byte as they travel.  The 8 bytes are read as a signed big-endian integer,
  which a `bigint` column holds.  A later version would be personalised, so that no digest of one passes for the other.
- The **message id** (`Nats-Msg-Id`) is `<event_id>-<digest in 16 hexadecimal digits>`.  The same event emitted again
  has the same message id; a different event that was given the same `event_id` has another, so that a stream's
  duplicate window never drops it.

Two events with one key and different digests are compared: `noetl_events.conflicts` says how.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final, TypeAlias

from noetl_events.envelope import encode

if TYPE_CHECKING:
    from noetl_events.envelope import ExecutorEvent

Key: TypeAlias = tuple[int, int]
"""`(execution_id, event_id)`."""

_SIZE: Final = 8
# A copy of one that is ready costs less than a new one with parameters.
_new_hash = blake2b(digest_size=_SIZE).copy


def digest(event: ExecutorEvent) -> int:
    """
    Return the digest of *event*, a signed 64-bit integer.

    Raises:
        MalformedEvent: as `noetl_events.envelope.encode`.

    """
    return digest_of_body(encode(event))


def digest_of_body(body: bytes) -> int:
    """Return the digest of the event whose canonical form, as `encode` returns it, is *body*."""
    return int.from_bytes(digest_bytes_of_body(body), signed=True)


def digest_bytes_of_body(body: bytes) -> bytes:
    """Return `digest_of_body` as its 8 bytes."""
    body_hash = _new_hash()
    body_hash.update(body)
    return body_hash.digest()


def message_id(event_id: int, body: bytes) -> bytes:
    """Return what the stream knows an event by, given its id and its canonical form *body*."""
    body_hash = _new_hash()
    body_hash.update(body)
    return f"{event_id}-{body_hash.hexdigest()}".encode()
