"""What the consumer API answers in a simulation: by the calls our code makes to `noetl_events.jetstream.topology`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from noetl_events.jetstream.errors import ConsumerMissing, NatsUnavailable, StreamMissing

if TYPE_CHECKING:
    from random import Random

    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from tests.simulation.consumer import Consumer
    from tests.simulation.network import SimConnection


class ConsumerApi:
    """
    The requests about *consumer*, each of which may fail.

    Args:
        consumer: they are about.
        draw: every chance of this run.

    """

    def __init__(self, consumer: Consumer, draw: Random) -> None:
        self._consumer = consumer
        self._draw = draw

    async def ensure(self, connection: SimConnection, _declared: ConsumerDeclaration) -> Any:
        """Return the consumer."""
        await self._travel(connection)
        if not self._consumer.has_stream:
            raise StreamMissing("no stream")
        return self._consumer.info()

    async def show(self, connection: SimConnection, _declared: ConsumerDeclaration) -> Any:
        """Return the consumer if it is there."""
        await self._travel(connection)
        if not self._consumer.has_stream:
            raise ConsumerMissing("no consumer")
        return self._consumer.info()

    async def reset(self, connection: SimConnection, _declared: ConsumerDeclaration) -> None:
        """Have it start again."""
        await self._travel(connection)
        self._consumer.reset()
        await self._travel(connection)

    async def unpin(self, connection: SimConnection, _declared: ConsumerDeclaration, _pin: Any) -> None:
        """Have it serve another."""
        if connection.is_connected:
            self._consumer.unpin()

    async def _travel(self, connection: SimConnection) -> None:
        # Who asks has a connection that was closed for good replaced.
        await connection.client()
        await asyncio.sleep(self._draw.expovariate(300))
        if not connection.is_connected:
            raise NatsUnavailable("no answer")
