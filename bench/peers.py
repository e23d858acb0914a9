"""
The same events through third-party clients, each with its fastest method that waits for the stream.

All send the identity header and the bytes of `encode`; a client that is not installed is left out.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from bench.envelopes import SUBJECT
from bench.publishers import identity, spread
from noetl_events import encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bench.publishers import Publish, Way
    from noetl_events import ExecutorEvent


@asynccontextmanager
async def faststream(url: str, events: list[ExecutorEvent]) -> AsyncIterator[Publish]:
    """FastStream's `broker.publish(stream=...)` from 1,000 tasks."""
    from faststream.nats import NatsBroker

    async with NatsBroker(url, logger=None) as broker:

        async def publish_one(event: ExecutorEvent) -> None:
            await broker.publish(encode(event), SUBJECT, headers=identity(event), stream="bench", timeout=30)

        yield partial(spread, events, publish_one)


@asynccontextmanager
async def natsrpy(url: str, events: list[ExecutorEvent]) -> AsyncIterator[Publish]:
    """`js.publish(wait=True)` of natsrpy, a Rust client, from 1,000 tasks."""
    from natsrpy import Nats

    client = Nats(addrs=[url])
    await client.startup()
    js = await client.jetstream()

    async def publish_one(event: ExecutorEvent) -> None:
        await js.publish(SUBJECT, encode(event), headers=identity(event), wait=True)

    yield partial(spread, events, publish_one)
    await client.shutdown()


@asynccontextmanager
async def natsio_async(url: str, events: list[ExecutorEvent]) -> AsyncIterator[Publish]:
    """`js.publish_async` of natsio, all acknowledgements awaited at the end."""
    import natsio

    client = await natsio.connect(url)
    js = client.jetstream()

    async def publish() -> None:
        await asyncio.gather(
            *[await js.publish_async(SUBJECT, encode(event), msg_id=str(event.event_id)) for event in events]
        )

    yield publish
    await client.close()


@asynccontextmanager
async def natsio_batch(url: str, events: list[ExecutorEvent]) -> AsyncIterator[Publish]:
    """Publish a single fast-ingest batch of natsio-jetstream-batch for all events, with its own flow control."""
    import natsio
    from natsio.jetstream_batch import FlowControl, fast_publisher

    client = await natsio.connect(url)
    js = client.jetstream()

    async def publish() -> None:
        async with fast_publisher(js, flow_control=FlowControl(flow=500, max_outstanding_acks=3)) as batch:
            for event in events[:-1]:
                await batch.add(SUBJECT, encode(event), headers=identity(event))
            await batch.commit(SUBJECT, encode(events[-1]), headers=identity(events[-1]))

    yield publish
    await client.close()


@asynccontextmanager
async def nats_jetstream_extra(url: str, events: list[ExecutorEvent]) -> AsyncIterator[Publish]:
    """Publish a single fast-ingest batch of nats-jetstream-extra for all events, with its own flow control."""
    from nats.client import connect
    from nats.jetstream import new
    from nats.jetstream_extra import fast_publish

    client = await connect(url)
    js = new(client)

    async def publish() -> None:
        async with fast_publish(js, flow=500, max_outstanding_acks=3) as batch:
            for event in events[:-1]:
                await batch.add(SUBJECT, encode(event), headers=identity(event))
            await batch.commit(SUBJECT, encode(events[-1]), headers=identity(events[-1]))

    yield publish
    await client.close()


_PEERS: dict[str, tuple[str, Way]] = {
    "FastStream, 1000 tasks": ("faststream", faststream),
    "natsrpy, 1000 tasks": ("natsrpy", natsrpy),
    "natsio publish_async": ("natsio", natsio_async),
    "natsio fast batch": ("natsio-jetstream-batch", natsio_batch),
    "nats-jetstream-extra fast batch": ("nats-jetstream-extra", nats_jetstream_extra),
}


def installed_peers() -> dict[str, Way]:
    """Return the methods of the installed clients, by name and version."""
    found = {}
    for name, (distribution, way) in _PEERS.items():
        try:
            found[f"{name} ({version(distribution)})"] = way
        except PackageNotFoundError:
            continue
    return found
