"""
The same way into Postgres with other people's packages.

FastStream has no sinks: its handler writes the same rows as the loop around nats-py.  mq-bridge has one, and two ways to
fill several columns from one JSON body:

- `columns: auto` writes every field into the column of its name, objects too; the key makes it an upsert, so that an
  event that comes again writes its row again.
- `insert_query` with ON CONFLICT DO NOTHING; its tokens take no objects, so that `context` and `meta` stay behind: seven
  of nine columns.  (A `coalesce` or `CAST` around a token would make it write row by row.)

Neither can write NoETL's own table, whose `result` is made of two fields.
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

_TOKENS: Final = {
    "execution_id": "${payload:execution_id}",
    "event_id": "${payload:event_id}",
    "event_type": "${payload:event_type}",
    "step": "${payload:step}",
    "status": "${payload:status}",
    "created_at": "${payload:created_at}::timestamptz",
    "worker_id": "${payload:worker_id}",
}
_INSERT: Final = (
    f"INSERT INTO noetl.event ({', '.join(_TOKENS)}) VALUES ({', '.join(_TOKENS.values())}) "  # noqa: S608  (constants)
    "ON CONFLICT (execution_id, event_id) DO NOTHING"
)
_AUTO: Final = {"columns": "auto", "key": "execution_id,event_id"}


@asynccontextmanager
async def faststream(url: str, target: Target, count: int) -> AsyncIterator[Carry]:
    """FastStream's `PullSub(2000, batch=True)`, raw messages, `decode`, asyncpg's `executemany` in the handler."""
    from faststream.nats import NatsBroker, PullSub  # noqa: PLC0415  (may be missing)

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
    """mq-bridge's route from NATS to Postgres, all Rust: batches of 2,000, a consumer of its own."""
    from mq_bridge import Route  # noqa: PLC0415  (may be missing)

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
    "mq-bridge insert_query, 7 columns": ("mq-bridge", partial(mq_bridge, writing={"insert_query": _INSERT})),
}
NOETL_PEERS: Final = {name: peer for name, peer in PEERS.items() if peer[0] != "mq-bridge"}
