"""The stream that benchmarks read: filled once, read by one fresh durable consumer after the other."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consumers import ensure_consumer
from noetl_events.jetstream.declarations import ConsumerDeclaration, StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sinks.nats import NatsSink

if TYPE_CHECKING:
    from noetl_events import ExecutorEvent

STREAM: Final = StreamDeclaration(name="bench", subjects=("noetl.events.>",))
CONSUMER: Final = ConsumerDeclaration(name="bench", stream=STREAM.name)

_POLL: Final = 0.01
_SILENCE: Final = 20.0


async def fill_stream(url: str, events: list[ExecutorEvent]) -> None:
    """Store *events*, and nothing else."""
    async with Connection(ConnectOptions(servers=url)) as connection:
        await ensure_stream(connection, STREAM)
        sink = NatsSink(connection)
        await sink.emit_batch(events)
        await sink.aclose()


async def create_consumer(url: str) -> None:
    """Create the consumer that all ways read which can be given one: explicit acks, 20,000 of them pending at most."""
    async with Connection(ConnectOptions(servers=url)) as connection:
        await ensure_consumer(connection, CONSUMER)


async def acknowledged(url: str, messages: int) -> None:
    """
    Return once the consumer of the stream, whoever made it, has the first *messages* acknowledged, without a gap.

    Raises:
        SystemExit: it has not come further for twenty seconds.

    """
    async with Connection(ConnectOptions(servers=url)) as connection:
        js = await jetstream(connection)
        floor, moved = 0, time.monotonic()
        while floor < messages:
            consumers: list[Any] = await js.consumers_info(STREAM.name)
            now = consumers[0].ack_floor.stream_seq if consumers else 0
            if now != floor:
                floor, moved = now, time.monotonic()
            elif time.monotonic() - moved > _SILENCE:
                raise SystemExit(f"stands at {floor} of {messages} acknowledged")
            else:
                await asyncio.sleep(_POLL)


async def delete_consumers(url: str) -> None:
    """Leave the stream as it was filled."""
    async with Connection(ConnectOptions(servers=url)) as connection:
        js = await jetstream(connection)
        for consumer in await js.consumers_info(STREAM.name):
            await js.delete_consumer(STREAM.name, consumer.name)
