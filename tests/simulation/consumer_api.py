"""The simulated consumer API, with the functions of `noetl_events.jetstream.consumers` that the code calls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from noetl_events.jetstream.consume.position import StreamEnd
from noetl_events.jetstream.consumer_config import differences
from noetl_events.jetstream.errors import ConsumerDrift, ConsumerMissing, NatsUnavailable, StreamMissing

if TYPE_CHECKING:
    from random import Random

    from noetl_events.jetstream.consume.gaps import Gap
    from noetl_events.jetstream.consumers import ConsumerInfo
    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from tests.simulation.consumer import Consumer
    from tests.simulation.network import SimConnection


class ConsumerApi:
    """
    The API requests about *consumer*, each of which may fail.

    Args:
        consumer: consumer that the requests are about.
        draw: random generator of the run.

    """

    def __init__(self, consumer: Consumer, draw: Random) -> None:
        self._consumer = consumer
        self._draw = draw

    async def ensure(self, connection: SimConnection, declared: ConsumerDeclaration) -> ConsumerInfo:
        """Return the consumer, unless it leaves messages out."""
        await self._travel(connection)
        if not self._consumer.has_stream:
            raise StreamMissing("no stream")
        info = self._consumer.info()
        if found := differences(declared, info.config):
            raise ConsumerDrift(declared.stream, declared.name, found)
        return info

    async def show(self, connection: SimConnection, _declared: ConsumerDeclaration) -> ConsumerInfo:
        """Return the consumer if it exists."""
        await self._travel(connection)
        if not self._consumer.has_stream:
            raise ConsumerMissing("no consumer")
        return self._consumer.info()

    async def end_of_stream(self, connection: SimConnection) -> StreamEnd:
        """Return the end of the stream, if it exists."""
        # The request takes no time, so the draws of the kept seeds stay the same.
        await connection.client()
        if not self._consumer.has_stream:
            raise StreamMissing("no stream")
        return StreamEnd(self._consumer.last_sequence)

    async def reset(self, connection: SimConnection, _declared: ConsumerDeclaration, *, start: int = 0) -> ConsumerInfo:
        """Reset the consumer."""
        await self._travel(connection)
        self._consumer.reset(start)
        info = self._consumer.info()
        await self._travel(connection)
        return info

    async def require_server(self, connection: SimConnection, _declared: ConsumerDeclaration) -> None:
        """Accept the server's version, if the server answers."""
        await connection.client()

    async def can_reset(self, _connection: SimConnection) -> bool:
        """Return True."""
        return True

    async def passed_over(self, connection: SimConnection, _stream: str, gap: Gap) -> int:
        """Return the number of undelivered messages in *gap*: the stream has all of them."""
        await self._travel(connection)
        return max(gap.before - gap.after - 1 - gap.elsewhere, 0)

    async def unpin(self, connection: SimConnection, _declared: ConsumerDeclaration, _pin: Any) -> None:
        """Unpin the client."""
        if connection.is_connected:
            self._consumer.unpin()

    async def _travel(self, connection: SimConnection) -> None:
        # A request replaces a connection that was closed for good.
        await connection.client()
        await asyncio.sleep(self._draw.expovariate(300))
        if not connection.is_connected:
            raise NatsUnavailable("no answer")
