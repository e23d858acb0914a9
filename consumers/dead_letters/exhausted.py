"""
Messages that a consumer with a finite `max_deliver` gave up on: they become dead letters of the kind "exhausted".

Our own consumers deliver for ever.  One that somebody else configured does not, and what it gives up on would stay in
the stream unnoticed, until it is too old.  The server says so once, in an advisory that is not stored: run the watch
for as long as there are such consumers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from noetl_events.jetstream.advisories import Advisories
from noetl_events.jetstream.errors import MessageTooLarge, NatsUnavailable
from noetl_events.jetstream.stored import find_stored
from noetl_events.retry import Backoff, Retry

if TYPE_CHECKING:
    from consumers.dead_letters import DeadLetters
    from noetl_events.jetstream.advisories import MaxDeliveries
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.stored import Stored

_GROUP: Final = "noetl_exhausted"

log = structlog.get_logger()


class ExhaustedWatch:
    """
    Bury what the consumers of a stream gave up on; of several watches one buries each.

    Args:
        connection: to NATS; it stays open.
        dead_letters: takes the messages.
        stream: whose consumers count.
        backoff: the waits while NATS is away.

    """

    def __init__(
        self, connection: Connection, dead_letters: DeadLetters, *, stream: str, backoff: Backoff | None = None
    ) -> None:
        self._connection = connection
        self._dead_letters = dead_letters
        self._advisories = Advisories(connection, stream, group=_GROUP)
        self._backoff = backoff or Backoff()

    async def run(self) -> None:
        """Watch until cancelled; what was heard and is not buried by then is counted in the log."""
        try:
            while True:
                async for attempt in Retry(NatsUnavailable, backoff=self._backoff, log="exhausted"):
                    with attempt:
                        await self._bury_next()
        finally:
            if self._advisories.waiting:
                log.error("exhausted.left", messages=self._advisories.waiting)
            await self._advisories.aclose()

    async def _bury_next(self) -> None:
        given_up = await self._advisories.first()
        stored = await find_stored(self._connection, given_up.stream, given_up.stream_seq)
        if stored is None:
            log.error("exhausted.gone", consumer=given_up.consumer, sequence=given_up.stream_seq)
        else:
            await self._bury(stored, given_up)
        self._advisories.drop_first()

    async def _bury(self, stored: Stored, given_up: MaxDeliveries) -> None:
        reason = f"consumer {given_up.consumer} gave up after {given_up.deliveries} deliveries"
        place = {"consumer": given_up.consumer, "sequence": given_up.stream_seq}
        try:
            await self._dead_letters.bury_stored(stored, "exhausted", reason, consumer=given_up.consumer)
        except MessageTooLarge as exc:
            # Only an operator can help, and those behind it need not wait for that.
            log.error("exhausted.too_large", **place, reason=str(exc))
        else:
            log.error("exhausted.buried", **place, deliveries=given_up.deliveries)
