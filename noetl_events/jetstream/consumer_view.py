"""A durable consumer as it was when it was last looked at: its configuration, its limits, and whether it is paused."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import structlog

from noetl_events.jetstream.consumer_config import ConsumerLimits, essence_of, limits_of, remarks
from noetl_events.jetstream.consumers import ensure_consumer, require_server
from noetl_events.jetstream.errors import ConsumerDrift, Refused, ServerTooOld, StreamDrift

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.consumers import ConsumerInfo
    from noetl_events.jetstream.declarations import ConsumerDeclaration

log = structlog.get_logger()


class ConsumerView:
    """
    What is known of one consumer.

    Args:
        connection: to NATS; it stays open.
        consumer: as declared.

    """

    def __init__(self, connection: Connection, consumer: ConsumerDeclaration) -> None:
        self.limits = ConsumerLimits(ack_wait=consumer.ack_wait, pin_ttl=consumer.pin_ttl)
        """What its pullers keep to."""

        self._connection = connection
        self._consumer = consumer
        self._config: dict[str, Any] = {}
        self._remarks: dict[str, str] = {}
        self._paused_until = 0.0
        self._changed = asyncio.Event()

    @property
    def pause(self) -> float:
        """Seconds for which an operator has paused it, as of the last look; 0 when it is not paused."""
        return max(self._paused_until - time.monotonic(), 0.0)

    async def require_server(self) -> None:
        """Return if the server can serve it; raises as `look`."""
        try:
            await require_server(self._connection, self._consumer)
        except ServerTooOld as exc:
            if not self._config:
                raise
            raise Refused(str(exc)) from exc

    async def look(self) -> ConsumerInfo:
        """
        Return the consumer, created if it was missing.

        Raises:
            ConsumerDrift, StreamDrift, ServerTooOld: it must not be read, and was not read before.
            Refused: it must not be read any more.
            NatsUnavailable: the server did not answer, or said no.

        """
        try:
            info = await ensure_consumer(self._connection, self._consumer)
        except (ConsumerDrift, ServerTooOld, StreamDrift) as exc:
            if not self._config:
                raise
            raise Refused(str(exc)) from exc
        if (found := remarks(self._consumer, info.config)) != self._remarks:
            self._remarks = found
            log.warning("consumer.adapted_to", consumer=self._consumer.name, fields=found)
        return info

    def is_unchanged(self, info: ConsumerInfo) -> bool:
        """Return whether deliveries go on as they did."""
        return essence_of(info.config) == self._config

    def take(self, info: ConsumerInfo) -> None:
        """Keep to what the consumer is like now."""
        self._config = essence_of(info.config)
        self.note_pause(info)
        if (limits := limits_of(self._consumer, info.config)) != self.limits:
            self.limits = limits
            self._changed.set()

    def note_pause(self, info: ConsumerInfo) -> None:
        """Note whether it is paused, and until when."""
        was_paused = self.pause > 0
        self._paused_until = time.monotonic() + info.pause_remaining / 1e9 if info.paused else 0.0
        if info.paused and not was_paused:
            log.warning("consumer.paused", consumer=self._consumer.name, seconds=round(self.pause, 1))

    async def until_keep_alive(self) -> None:
        """Return after a third of the shortest time for which the server waits for a sign of life."""
        while True:
            limits = self.limits
            shortest = min(limits.ack_wait, limits.pin_ttl if self._consumer.exclusive else limits.ack_wait)
            self._changed.clear()
            try:
                async with asyncio.timeout(shortest / 3):
                    await self._changed.wait()
            except TimeoutError:
                return
