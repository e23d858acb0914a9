"""
The stream and the consumer, looked at from outside the loop every ten seconds.

How much is pending, also while the loop holds and receives nothing.  Whether the consumer was edited, paused or deleted
by hand: its puller begins anew with it then.  And whether the stream is still the one it was: one that was created
again, or lost its end in a power cut, starts its sequences again.  Nothing here goes by sequence, so nothing is skipped
for it; but an operator has to know.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from noetl_events.jetstream.consumers import show_consumer
from noetl_events.jetstream.errors import ConsumerMissing, NatsUnavailable
from noetl_events.jetstream.topology import show_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from consumers.projector import Projector
    from noetl_events.jetstream.connection import Connection

_INTERVAL: Final = 10.0

log = structlog.get_logger()


class StreamWatch:
    """
    Watch *stream* and the consumers of *projectors*.

    Args:
        connection: to NATS; it stays open.
        stream: its name.
        projectors: gives those that run now; their `progress.pending` is kept up to date.
        interval: seconds between two looks.

    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        projectors: Callable[[], Iterable[Projector]],
        *,
        interval: float = _INTERVAL,
    ) -> None:
        self.identity_changes = 0
        """How often the stream was found created again, or shorter than before."""

        self._connection = connection
        self._stream = stream
        self._projectors = projectors
        self._interval = interval
        self._created = ""
        self._last_sequence = 0

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                await self._look()
            except NatsUnavailable as exc:
                # The loop itself says so where it matters.
                log.debug("stream.unseen", reason=str(exc))
            await asyncio.sleep(self._interval)

    async def _look(self) -> None:
        for projector in self._projectors():
            await self._look_at(projector)
        stream = await show_stream(self._connection, self._stream)
        self._compare(str(stream.created), stream.state.last_seq)

    async def _look_at(self, projector: Projector) -> None:
        try:
            consumer = await show_consumer(self._connection, projector.consumer)
        except ConsumerMissing:
            projector.puller.look_at(None)
            return
        projector.progress.note_pending(consumer.num_pending, behind=consumer.delivered.stream_seq)
        projector.puller.look_at(consumer)

    def _compare(self, created: str, last_sequence: int) -> None:
        if self._created and (created != self._created or last_sequence < self._last_sequence):
            self.identity_changes += 1
            log.error(
                "stream.identity_changed",
                stream=self._stream,
                created=created,
                was_created=self._created,
                last_sequence=last_sequence,
                was_last_sequence=self._last_sequence,
            )
        self._created, self._last_sequence = created, last_sequence
