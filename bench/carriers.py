"""
Methods to write a stream into Postgres: the projector, and a manual loop around nats-py and asyncpg.

A method is opened on a server with the table and the number of messages, and yields a function that returns when all
messages are committed and acknowledged.  Every method acknowledges a message after its commit.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg
import nats

from bench.projecting import projecting
from bench.streams import CONSUMER, STREAM, create_consumer
from consumers.sinks.postgres import PostgresSink
from noetl_events import decode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from bench.tables import Target

    Carry: TypeAlias = Callable[[], Awaitable[None]]
    Way: TypeAlias = Callable[[str, Target, int], AbstractAsyncContextManager[Carry]]

BATCH: Final = 2_000
"""The largest transaction in messages: the projector's default, used for every method."""

PLAIN_INSERT: Final = """
INSERT INTO noetl.event (execution_id, event_id, event_type, step, status, created_at, context, worker_id, meta)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (execution_id, event_id) DO NOTHING
"""
NOETL_INSERT: Final = """
INSERT INTO noetl.event (execution_id, catalog_id, event_id, created_at, event_type, node_id, node_name, status, result,
                         worker_id, meta)
VALUES ($1, ($9::jsonb ->> 'catalog_id')::bigint, $2, $6::timestamptz AT TIME ZONE 'UTC', $3, $4, $4, $5,
        jsonb_build_object('status', $5::varchar, 'context', $7::jsonb), $8, $9::jsonb)
ON CONFLICT (execution_id, event_id) DO NOTHING
"""


def insert_into(target: Target) -> str:
    """Return the insert statement of the manual loop."""
    return NOETL_INSERT if target.table == "noetl" else PLAIN_INSERT


def row_of(body: bytes) -> tuple[Any, ...]:
    """Return the nine values of the event in *body*."""
    event = decode(body)
    return (
        event.execution_id,
        event.event_id,
        event.event_type,
        event.step,
        event.status,
        event.created_at,
        bytes(event.context).decode(),
        event.worker_id,
        None if event.meta is None else bytes(event.meta).decode(),
    )


@asynccontextmanager
async def projector_into_postgres(url: str, target: Target, count: int) -> AsyncIterator[Carry]:
    """Run projector and `PostgresSink` as the daemon does, including the connection."""
    await create_consumer(url)
    sink = PostgresSink.from_url(target.sink_url)
    async with projecting(url, sink, count) as carry:
        yield carry
    await sink.aclose()


@asynccontextmanager
async def fetch_and_executemany(url: str, target: Target, count: int) -> AsyncIterator[Carry]:
    """nats-py's `fetch(2000)`, `decode`, asyncpg's `executemany` with ON CONFLICT DO NOTHING, an `ack` for each."""
    await create_consumer(url)
    client = await nats.connect(url)
    subscription = await client.jetstream().pull_subscribe_bind(CONSUMER.name, STREAM.name)
    database = await asyncpg.connect(target.dsn)

    async def carry() -> None:
        left = count
        while left:
            messages = await subscription.fetch(min(BATCH, left))
            await database.executemany(insert_into(target), [row_of(message.data) for message in messages])
            for message in messages:
                await message.ack()
            left -= len(messages)
        await client.flush()

    yield carry
    await database.close()
    await client.close()
