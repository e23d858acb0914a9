"""
The same path into Postgres with third-party packages.

FastStream has no sinks: its handler writes the same rows as the loop around nats-py.  mq-bridge has one, and two ways
to fill several columns from one JSON body:

- `columns: auto` writes every field into the column of its name, objects too; the key makes it an upsert, so that a
  redelivered event writes its row again.
- `insert_query` with ON CONFLICT DO NOTHING writes many rows a statement only if its values are plain tokens.  These
  hold no objects and cast nothing, so `context`, `meta` and `created_at` are missing: six of nine columns are written.

Neither can write NoETL's own table with its `result` made of two fields.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from nats.js.api import ConsumerConfig

from bench.carriers import BATCH, insert_into, row_of
from bench.envelopes import SUBJECT
from bench.streams import CONSUMER, STREAM, acknowledged, create_consumer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bench.carriers import Carry, Way
    from bench.tables import Target

_INSERT: Final = (
    "INSERT INTO noetl.event (execution_id, event_id, event_type, step, status, worker_id) "
    "VALUES (${payload:execution_id}, ${payload:event_id}, ${payload:event_type}, ${payload:step}, "
    "${payload:status}, ${payload:worker_id}) "
    "ON CONFLICT (execution_id, event_id) DO NOTHING"
)
_AUTO: Final = {"columns": "auto", "key": "execution_id,event_id"}


@asynccontextmanager
async def faststream(url: str, target: Target, count: int) -> AsyncIterator[Carry]:
    """FastStream's `PullSub(2000, batch=True)`: raw messages, `decode`, asyncpg's `executemany` in the handler."""
    from faststream.nats import NatsBroker, PullSub

    await create_consumer(url)
    database = await asyncpg.connect(target.dsn)
    broker = NatsBroker(url, logger=None, apply_types=False)

    async def raw(message: Any) -> Any:
        return message.body

    @broker.subscriber(
        SUBJECT,
        durable=CONSUMER.name,
        stream=STREAM.name,
        config=ConsumerConfig(max_ack_pending=CONSUMER.max_ack_pending),
        pull_sub=PullSub(batch_size=BATCH, timeout=0.5, batch=True),
        decoder=raw,
    )
    async def store(bodies: list[bytes]) -> None:
        await database.executemany(insert_into(target), [row_of(body) for body in bodies])

    async def carry() -> None:
        await broker.start()
        await acknowledged(url, count)

    yield carry
    await broker.stop()
    await database.close()


@asynccontextmanager
async def mq_bridge(url: str, target: Target, count: int, *, writing: dict[str, str]) -> AsyncIterator[Carry]:
    """mq-bridge's route from NATS to Postgres, all Rust: batches of 2,000, with its own consumer."""
    from mq_bridge import Route

    source = {"nats": {"url": url, "subject": STREAM.subjects[0], "stream": STREAM.name}}
    table = {"sqlx": {"url": target.dsn, "table": "noetl.event"} | writing}
    route = Route.from_config({"input": source, "output": table, "batch_size": BATCH}, name="carry")

    async def carry() -> None:
        route.start()
        await acknowledged(url, count)

    yield carry
    await asyncio.to_thread(route.stop)


PEERS: Final[dict[str, tuple[str, Way]]] = {
    "FastStream + asyncpg executemany": ("faststream", faststream),
    "mq-bridge columns: auto, upsert": ("mq-bridge", partial(mq_bridge, writing=_AUTO)),
    "mq-bridge insert_query, 6 of 9 columns": ("mq-bridge", partial(mq_bridge, writing={"insert_query": _INSERT})),
}
NOETL_PEERS: Final = {name: peer for name, peer in PEERS.items() if peer[0] != "mq-bridge"}
