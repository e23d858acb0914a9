"""
Methods to drain a stream through a durable consumer: the projector's, and nats-py's.

A method is opened on a server with the number of messages, and yields a function that returns when all of them are
acknowledged and the server has the acks.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import nats

from bench.projecting import projecting
from bench.streams import CONSUMER, STREAM, create_consumer
from noetl_events import decode
from noetl_events.sinks.noop import NoopSink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    Drain: TypeAlias = Callable[[], Awaitable[None]]
    Way: TypeAlias = Callable[[str, int], AbstractAsyncContextManager[Drain]]

BATCH: Final = 500


@asynccontextmanager
async def projector_into_noop(url: str, count: int) -> AsyncIterator[Drain]:
    """Run the projector as the daemon does, including the connection: every message decoded, checked, and acked."""
    await create_consumer(url)
    async with projecting(url, NoopSink(), count) as drain:
        yield drain


@asynccontextmanager
async def fetch_and_ack(url: str, count: int) -> AsyncIterator[Drain]:
    """nats-py's `fetch(500)` and an `ack` of each message; nothing is decoded."""
    async with _fetching(url, count, lambda _: None) as drain:
        yield drain


@asynccontextmanager
async def fetch_decode_and_ack(url: str, count: int) -> AsyncIterator[Drain]:
    """nats-py's `fetch(500)`, `decode` and an `ack` of each message: the steps of the projector."""
    async with _fetching(url, count, decode) as drain:
        yield drain


@asynccontextmanager
async def _fetching(url: str, count: int, handle: Callable[[bytes], Any]) -> AsyncIterator[Drain]:
    await create_consumer(url)
    client = await nats.connect(url)
    subscription = await client.jetstream().pull_subscribe_bind(CONSUMER.name, STREAM.name)

    async def drain() -> None:
        left = count
        while left:
            messages = await subscription.fetch(min(BATCH, left))
            for message in messages:
                handle(message.data)
                await message.ack()
            left -= len(messages)
        await client.flush()

    yield drain
    await client.close()
