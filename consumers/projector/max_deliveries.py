"""
Max-deliveries monitor: messages that exceeded the finite `max_deliver` of a consumer.

The consumers of a projector have no delivery limit.  If one exceeds a limit, its `max_deliver` was edited by hand.  The
message is no dead letter: the consumer is reset and redelivers it, and the destination ignores what it has already.

A consumer of another program may have a limit, and a message beyond it would stay in the stream unnoticed until it
expires.  With `projector.watch_max_deliver` it becomes an "exhausted" dead letter.  The server reports each message
once, in an advisory that is not stored, so the monitor must run for as long as such consumers exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from noetl_events.jetstream.advisories import Advisories
from noetl_events.jetstream.consumer_config import is_of_a_projector
from noetl_events.jetstream.consumers import show_consumer
from noetl_events.jetstream.declarations import ConsumerDeclaration
from noetl_events.jetstream.errors import ConsumerMissing, MessageTooLarge, NatsUnavailable, PermissionDenied
from noetl_events.jetstream.storage import find_stored
from noetl_events.retry import Backoff, Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from consumers.dead_letters import DeadLetters
    from noetl_events.jetstream.advisories import MaxDeliveries
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.storage import Stored

_GROUP: Final = "noetl_exhausted"

log = structlog.get_logger()


class MaxDeliveriesMonitor:
    """
    Monitor the consumers of a projector, and on request those of other programs; parallel monitors share these.

    Args:
        connection: connection to NATS; the caller closes it.
        dead_letters: destination of the messages of other programs' consumers.
        stream: name of the stream with the consumers.
        own: names of the consumers that this process reads.
        on_own: callback for a message that exceeded the limit of one of *own*.
        others: whether messages of other consumers become dead letters.
        backoff: waits while NATS is unavailable.

    """

    def __init__(
        self,
        connection: Connection,
        dead_letters: DeadLetters,
        *,
        stream: str,
        own: Collection[str] = (),
        on_own: Callable[[MaxDeliveries], None] = lambda _: None,
        others: bool = False,
        backoff: Backoff | None = None,
    ) -> None:
        self._connection = connection
        self._dead_letters = dead_letters
        self._own = frozenset(own)
        self._on_own = on_own
        self._advisories = Advisories(connection, stream, group=_GROUP if others else "", own=own)
        self._backoff = backoff or Backoff()

    async def run(self) -> None:
        """Watch until cancelled; log the number of advisories that were received and not processed by then."""
        try:
            while True:
                async for attempt in Retry(NatsUnavailable, backoff=self._backoff, log="max_deliveries"):
                    with attempt:
                        await self._process_next()
        finally:
            if self._advisories.waiting:
                log.error("max_deliveries.unprocessed", messages=self._advisories.waiting)
            await self._advisories.aclose()

    async def _process_next(self) -> None:
        advisory = await self._advisories.first()
        if advisory.consumer in self._own:
            self._on_own(advisory)
        elif not await self._is_of_a_projector(advisory):
            await self._find_and_publish(advisory)
        self._advisories.drop_first()

    async def _is_of_a_projector(self, advisory: MaxDeliveries) -> bool:
        """Return whether another projector reads that consumer and therefore resets it itself."""
        declared = ConsumerDeclaration(name=advisory.consumer, stream=advisory.stream)
        try:
            return is_of_a_projector((await show_consumer(self._connection, declared)).config)
        except (ConsumerMissing, PermissionDenied):
            return False

    async def _find_and_publish(self, advisory: MaxDeliveries) -> None:
        stored = await find_stored(self._connection, advisory.stream, advisory.stream_seq)
        if stored is None:
            log.error("max_deliveries.message_missing", consumer=advisory.consumer, sequence=advisory.stream_seq)
        else:
            await self._publish(stored, advisory)

    async def _publish(self, stored: Stored, advisory: MaxDeliveries) -> None:
        reason = f"consumer {advisory.consumer} gave up after {advisory.deliveries} deliveries"
        place = {"consumer": advisory.consumer, "sequence": advisory.stream_seq}
        try:
            await self._dead_letters.publish_stored(stored, "exhausted", reason, consumer=advisory.consumer)
        except MessageTooLarge as exc:
            # Only an operator can fix this, so the advisories behind it are processed meanwhile.
            log.error("max_deliveries.too_large", **place, reason=str(exc))
        else:
            log.error("max_deliveries.dead_lettered", **place, deliveries=advisory.deliveries)
