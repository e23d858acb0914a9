"""
The identity of the stream, remembered from one start of a projector to the next.

It is a note in the stream of trials, under a subject of the projector's own, of which the last message is kept.  That
stream is not the one that is remembered, every projector may write to it already, and every server has it.  Who sets
back the whole store sets back the note with it: then the stream is the one that is remembered.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog

from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.store import last_payload, store

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import ConsumerDeclaration, StreamDeclaration
    from noetl_events.jetstream.stream_identity import StreamIdentity

# A stream that stands still is noted once in a while: notes are kept as long as events.
_AGAIN: Final = 3_600.0

log = structlog.get_logger()


class IdentityNotes:
    """
    The note of one projector; its replicas share it.

    Args:
        connection: to NATS; it stays open.
        stream: the notes are kept in.
        consumer: of the projector, under whose name the note stands.

    """

    def __init__(self, connection: Connection, stream: StreamDeclaration, consumer: ConsumerDeclaration) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = f"{stream.prefix}.{consumer.stream}.{consumer.name}.identity"
        self._is_loaded = False
        self._saved = b""
        self._save_at = 0.0
        self._is_told = False

    async def load(self, identity: StreamIdentity) -> None:
        """Have *identity* remember what was noted; without a note, or where it cannot be read, nothing."""
        if self._is_loaded:
            return
        self._is_loaded = True
        try:
            payload = await last_payload(self._connection, self._stream.name, self._subject)
        except NatsUnavailable as exc:
            self._tell(exc)
        else:
            identity.load(payload or b"[]")

    async def save(self, identity: StreamIdentity) -> None:
        """Note what *identity* remembers, if it is not noted already."""
        payload = identity.dump()
        if payload == self._saved and time.monotonic() < self._save_at:
            return
        try:
            await store(self._connection, self._subject, payload, {}, stream=self._stream.name)
        except NatsUnavailable as exc:
            self._tell(exc)
        else:
            self._saved, self._save_at, self._is_told = payload, time.monotonic() + _AGAIN, False

    def _tell(self, exc: NatsUnavailable) -> None:
        if not self._is_told:
            self._is_told = True
            log.warning("stream.identity_not_noted", stream=self._stream.name, reason=str(exc))
