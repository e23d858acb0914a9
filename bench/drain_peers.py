"""
The same drain with third-party packages, each with its fastest method that acknowledges every message.

None of them calls `decode`.  FastStream reads the JSON of each body, nats-sinks writes it to a file.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nats.js.api import ConsumerConfig

from bench.drains import BATCH
from bench.envelopes import SUBJECT
from bench.streams import CONSUMER, STREAM, acknowledged, create_consumer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bench.drains import Drain, Way

SLOW: Final = 0.02
"""The part of the messages that suffices for the rate of a method that takes minutes for all of them."""


@asynccontextmanager
async def faststream(url: str, count: int) -> AsyncIterator[Drain]:
    """FastStream's `PullSub(500, batch=True)` with a handler that does nothing; it decodes the JSON of each body."""
    from faststream.nats import NatsBroker, PullSub

    await create_consumer(url)
    broker = NatsBroker(url, logger=None, apply_types=False)

    @broker.subscriber(
        SUBJECT,
        durable=CONSUMER.name,
        stream=STREAM.name,
        config=ConsumerConfig(max_ack_pending=CONSUMER.max_ack_pending),
        pull_sub=PullSub(batch_size=BATCH, timeout=0.5, batch=True),
    )
    async def handle(_bodies: list[Any]) -> None: ...

    async def drain() -> None:
        await broker.start()
        await acknowledged(url, count)

    yield drain
    await broker.stop()


@asynccontextmanager
async def natsrpy(url: str, count: int) -> AsyncIterator[Drain]:
    """`fetch(500)` of natsrpy, a Rust client, the acks of a batch awaited together; nothing is decoded."""
    from natsrpy import Nats

    await create_consumer(url)
    client = Nats(addrs=[url])
    await client.startup()
    stream = await (await client.jetstream()).streams.get(STREAM.name)
    consumer = await stream.consumers.get_pull(CONSUMER.name)

    async def drain() -> None:
        left = count
        while left:
            messages = await consumer.fetch(min(BATCH, left))
            await asyncio.gather(*[message.ack() for message in messages])
            left -= len(messages)
        await acknowledged(url, count)

    yield drain
    await client.shutdown()


@asynccontextmanager
async def natsio(url: str, count: int) -> AsyncIterator[Drain]:
    """`fetch(500)` of natsio and an `ack` of each message; nothing is decoded."""
    import natsio as package

    await create_consumer(url)
    client = await package.connect(url)
    consumer = await (await client.jetstream().stream(STREAM.name)).consumer(CONSUMER.name)

    async def drain() -> None:
        left = count
        while left:
            messages = await consumer.fetch(min(BATCH, left))
            for message in messages:
                await message.ack()
            left -= len(messages)
        await client.flush()

    yield drain
    await client.close()


@asynccontextmanager
async def mq_bridge(url: str, count: int) -> AsyncIterator[Drain]:
    """mq-bridge's route from NATS to `null`, all Rust: batches of 2,000, with its own consumer; nothing is decoded."""
    from mq_bridge import Route

    source = {"nats": {"url": url, "subject": STREAM.subjects[0], "stream": STREAM.name}}
    route = Route.from_config({"input": source, "output": {"null": None}, "batch_size": 2_000}, name="drain")

    async def drain() -> None:
        route.start()
        await acknowledged(url, count)

    yield drain
    await asyncio.to_thread(route.stop)


@asynccontextmanager
async def nats_sinks(url: str, count: int) -> AsyncIterator[Drain]:
    """nats-sinks' runner and file sink: a file for each message, no fsync, no metrics, with its own consumer."""
    from nats_sinks.core.config import DeliveryConfig
    from nats_sinks.core.runner import JetStreamSinkRunner
    from nats_sinks.file.sink import FileSink

    with tempfile.TemporaryDirectory() as folder:
        runner = JetStreamSinkRunner(
            nats_url=url,
            stream=STREAM.name,
            consumer=CONSUMER.name,
            subject=STREAM.subjects[0],
            sink=FileSink(directory=Path(folder), fsync=False),
            delivery=DeliveryConfig(batch_size=BATCH),
        )

        async with asyncio.TaskGroup() as group:

            async def drain() -> None:
                group.create_task(runner.run())
                await acknowledged(url, count)

            yield drain
            runner.request_stop()


PEERS: Final[dict[str, tuple[str, Way]]] = {
    "FastStream PullSub(500), no-op": ("faststream", faststream),
    "natsrpy fetch(500), ack each": ("natsrpy", natsrpy),
    "natsio fetch(500), ack each": ("natsio", natsio),
    "mq-bridge to null": ("mq-bridge", mq_bridge),
    "nats-sinks into files": ("nats-sinks", nats_sinks),
}
