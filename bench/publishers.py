"""
Methods to publish events to a stream: this project's, nats-py's, and the maximum of a connection.

A method is opened on a server with the events to publish, and yields a function that returns when all are stored.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import nats

from bench.envelopes import SUBJECT
from noetl_events import encode
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.publish.message import publish_all
from noetl_events.sinks.nats import NatsSink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from noetl_events import ExecutorEvent
    from noetl_events.jetstream.publish.publisher import Durability

    Publish: TypeAlias = Callable[[], Awaitable[None]]
    Way: TypeAlias = Callable[[str, list[ExecutorEvent]], AbstractAsyncContextManager[Publish]]

TASKS = 1_000
BATCH = 500
BLOB = 1_000


def identity(event: ExecutorEvent) -> dict[str, str]:
    """Return the header with the message id for the duplicate check."""
    return {"Nats-Msg-Id": str(event.event_id)}


async def spread(events: list[ExecutorEvent], publish: Callable[[ExecutorEvent], Awaitable[object]]) -> None:
    """Publish from 1,000 tasks, each awaiting its event before the next."""
    left = iter(events)

    async def publish_some() -> None:
        for event in left:
            await publish(event)

    await asyncio.gather(*(publish_some() for _ in range(TASKS)))


@asynccontextmanager
async def one_by_one(url: str, events: list[ExecutorEvent]) -> AsyncIterator[Publish]:
    """nats-py's `js.publish`, each awaited before the next."""
    client = await nats.connect(url)
    js = client.jetstream()

    async def publish() -> None:
        for event in events:
            await js.publish(SUBJECT, encode(event), headers=identity(event))

    yield publish
    await client.close()


@asynccontextmanager
async def publish_async(url: str, events: list[ExecutorEvent]) -> AsyncIterator[Publish]:
    """nats-py's `js.publish_async`, all acknowledgements awaited at the end."""
    client = await nats.connect(url)
    js = client.jetstream()

    async def publish() -> None:
        await asyncio.gather(
            *[await js.publish_async(SUBJECT, encode(event), headers=identity(event)) for event in events]
        )

    yield publish
    await client.close()


@asynccontextmanager
async def blob(url: str, events: list[ExecutorEvent]) -> AsyncIterator[Publish]:
    """
    Write the same fast-ingest batches as prepared blocks of bytes.

    Nothing is encoded or checked while the clock runs: this is the server's maximum for one connection.
    """
    client = await nats.connect(url)
    inbox = client.new_inbox()
    answers = await client.subscribe(f"{inbox}.>")
    blocks = _assemble(inbox, events)

    async def publish() -> None:
        for block in blocks:
            await publish_all(client, (), [block])
        for _ in blocks:
            while b'"count":' not in (await answers.next_msg(timeout=30)).data:
                pass

    yield publish
    await client.close()


def _assemble(inbox: str, events: list[ExecutorEvent]) -> list[bytes]:
    blocks = []
    for start in range(0, len(events), BLOB):
        some = events[start : start + BLOB]
        commands = []
        for seq, event in enumerate(some, 1):
            op = 2 if seq == len(some) else 0 if seq == 1 else 1
            head, body = f"NATS/1.0\r\nNats-Msg-Id: {event.event_id}\r\n\r\n".encode(), encode(event)
            address = f"{SUBJECT} {inbox}.{start}.500.fail.{seq}.{op}.$FI {len(head)} {len(head) + len(body)}"
            commands.append(b"HPUB %b\r\n%b%b\r\n" % (address.encode(), head, body))
        blocks.append(b"".join(commands))
    return blocks


@asynccontextmanager
async def nats_sink(url: str, durable: Durability = "stored") -> AsyncIterator[NatsSink]:
    """Open a NatsSink."""
    async with Connection(ConnectOptions(servers=url)) as connection:
        sink = NatsSink(connection, durable=durable)
        yield sink
        await sink.aclose()


@asynccontextmanager
async def emit_all(url: str, events: list[ExecutorEvent]) -> AsyncIterator[Publish]:
    """`NatsSink.emit_batch` with all events: a replay."""
    async with nats_sink(url) as sink:
        yield partial(sink.emit_batch, events)


@asynccontextmanager
async def emit_fsync(url: str, events: list[ExecutorEvent]) -> AsyncIterator[Publish]:
    """`NatsSink(durable="fsync").emit_batch` with all events."""
    async with nats_sink(url, "fsync") as sink:
        yield partial(sink.emit_batch, events)


@asynccontextmanager
async def emit_batches(url: str, events: list[ExecutorEvent]) -> AsyncIterator[Publish]:
    """`NatsSink.emit_batch` with 500 events a call, each awaited before the next: a mirror."""
    async with nats_sink(url) as sink:

        async def publish() -> None:
            for start in range(0, len(events), BATCH):
                await sink.emit_batch(events[start : start + BATCH])

        yield publish


@asynccontextmanager
async def emit_singly(url: str, events: list[ExecutorEvent]) -> AsyncIterator[Publish]:
    """`NatsSink.emit` from 1,000 tasks, each awaiting its event before the next: a busy worker pod."""
    async with nats_sink(url) as sink:
        yield partial(spread, events, sink.emit)
