"""Requests that came with an `Idempotency-Key`, and the ids their events were given."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from consumers.gateway.refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events.envelope import ExecutorEvent

_KEPT: Final = 4_096
_KEPT_BYTES: Final = 32 * 1024 * 1024


class Seen:
    """One request: its *events*, with their ids, and whether they are stored."""

    def __init__(self, body: bytes, events: Sequence[ExecutorEvent]) -> None:
        self.request_id = secrets.token_hex(16)
        self.events = events
        self.stored = False
        self.size = len(body)
        self.digest = _digest(body)


class RequestsSeen:
    """
    The last requests with a key.

    An event that brings its own id needs none of this: the stream knows the id.  For one without, a second request of
    the same key has the id of the first; after a restart of the gateway it has another, and is another event.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._bytes = 0

    def find(self, key: str, body: bytes) -> Seen | None:
        """
        Return the request that came with *key*.

        Raises:
            Refused: that one had another body.

        """
        seen = self._seen.get(key)
        if seen is not None and seen.digest != _digest(body):
            raise Refused(422, "key_reused", "Idempotency-Key: it came with another body before; use a new one")
        return seen

    def note(self, key: str, body: bytes, events: Sequence[ExecutorEvent]) -> Seen:
        """Remember a request, if it has a key, and forget the oldest."""
        seen = Seen(body, events)
        if key:
            self._seen[key] = seen
            self._bytes += seen.size
        while len(self._seen) > _KEPT or (self._bytes > _KEPT_BYTES and len(self._seen) > 1):
            _, oldest = self._seen.popitem(last=False)
            self._bytes -= oldest.size
        return seen


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()
