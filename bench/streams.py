"""The stream of the benchmarks: filled once, read by one new durable consumer after the other."""

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
    """Store *events* in a new stream."""
    async with Connection(ConnectOptions(servers=url)) as connection:
        await ensure_stream(connection, STREAM)
        sink = NatsSink(connection)
        await sink.emit_batch(events)
        await sink.aclose()


async def create_consumer(url: str) -> None:
    """Create the consumer for all methods that accept one: explicit acks, at most 20,000 pending."""
    async with Connection(ConnectOptions(servers=url)) as connection:
        await ensure_consumer(connection, CONSUMER)


async def acknowledged(url: str, messages: int) -> None:
    """
    Return once the stream's consumer, whatever its name, has the first *messages* acknowledged without a gap.

    Raises:
        SystemExit: the consumer has made no progress for twenty seconds.

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
    """Delete the consumers, and leave the stream unchanged."""
    async with Connection(ConnectOptions(servers=url)) as connection:
        js = await jetstream(connection)
        for consumer in await js.consumers_info(STREAM.name):
            await js.delete_consumer(STREAM.name, consumer.name)
