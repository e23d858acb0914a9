"""
The rate of writing rows into Postgres: COPY and alternatives, asyncpg and (if installed) psycopg, and the sink itself.

    python -m bench.postgres_drivers [--events 20000] [--batch 2000] [--rounds 5]

All methods write the same 400-byte events, decoded in advance, one transaction a batch, on a server with its default
durability.  The numbers are medians of the rounds, in which the methods alternate; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
import tempfile
import time
from contextlib import asynccontextmanager
from importlib.util import find_spec
from operator import truediv
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import msgspec
from msgspec import Raw, structs

from bench.envelopes import make_envelopes
from consumers.sinks.postgres import PostgresSink, create_schema
from consumers.sinks.postgres.rows import DIGEST, HEADER, PLAIN, TRAILER, rows_of
from consumers.sinks.postgres.table import KEY, Table, listed
from noetl_events import decode, encode
from noetl_events.testing.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from noetl_events import ExecutorEvent

    Write: TypeAlias = Callable[[list[ExecutorEvent]], Awaitable[Any]]
    Way: TypeAlias = Callable[[str], AbstractAsyncContextManager[Write]]

NOETL_TABLE = Path(__file__).parent.parent / "tests/sinks/noetl_event.sql"
TABLE = Table("noetl.event", PLAIN)
COLUMNS = PLAIN.columns | DIGEST
STAGING = f"CREATE TEMPORARY TABLE staging ({listed(COLUMNS)}) ON COMMIT DELETE ROWS"
INSERT_STAGED = (
    f"INSERT INTO {TABLE.quoted} ({', '.join(COLUMNS)}) SELECT {', '.join(COLUMNS)} FROM staging "  # noqa: S608  (constant names)
    f"ORDER BY event_id, execution_id ON CONFLICT ({', '.join(KEY)}) DO NOTHING"
)
KINDS = ", ".join(f"{name} {kind.removesuffix(' NOT NULL')}" for name, kind in COLUMNS.items())
FROM_JSON = INSERT_STAGED.replace("FROM staging", f"FROM json_to_recordset($1::json) AS event({KINDS})")
COUNT = struct.pack(">h", len(COLUMNS))


def copied(events: list[ExecutorEvent]) -> bytes:
    """Return the bytes for COPY."""
    return b"".join([HEADER, *(COUNT + row.record + row.digest for row in rows_of(events, PLAIN)[0]), TRAILER])


@asynccontextmanager
async def asyncpg_connection(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect with asyncpg, and create the staging table."""
    connection = await asyncpg.connect(url, statement_cache_size=0)
    await connection.execute(STAGING)
    yield connection
    await connection.close()


@asynccontextmanager
async def asyncpg_copy(url: str) -> AsyncIterator[Write]:
    """Copy directly into the table."""
    async with asyncpg_connection(url) as connection:
        yield lambda events: connection.copy_to_table(
            TABLE.relation, schema_name=TABLE.schema, format="binary", source=memoryview(copied(events))
        )


@asynccontextmanager
async def asyncpg_staged(url: str) -> AsyncIterator[Write]:
    """Copy into a staging table, and insert from there."""

    async def write(events: list[ExecutorEvent]) -> None:
        async with connection.transaction():
            await connection.copy_to_table("staging", format="binary", source=memoryview(copied(events)))
            await connection.execute(INSERT_STAGED)

    async with asyncpg_connection(url) as connection:
        yield write


@asynccontextmanager
async def asyncpg_json(url: str) -> AsyncIterator[Write]:
    """Send the whole batch as one JSON array."""
    async with asyncpg_connection(url) as connection:
        yield lambda events: connection.execute(FROM_JSON, msgspec.json.encode(events).decode())


@asynccontextmanager
async def psycopg_staged(url: str) -> AsyncIterator[Write]:
    """Copy into a staging table with psycopg, and insert from there."""
    import psycopg

    async def write(events: list[ExecutorEvent]) -> None:
        async with connection.transaction(), connection.cursor() as cursor:
            async with cursor.copy("COPY staging FROM STDIN (FORMAT binary)") as copy:
                await copy.write(copied(events))
            await cursor.execute(INSERT_STAGED)

    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(STAGING)
        yield write


@asynccontextmanager
async def sink(url: str) -> AsyncIterator[Write]:
    """Emit through the sink."""
    opened = PostgresSink.from_url(url)
    yield opened.emit_batch
    await opened.aclose()


WAYS: dict[str, Way] = {
    "asyncpg, COPY": asyncpg_copy,
    "asyncpg, COPY and INSERT": asyncpg_staged,
    "asyncpg, INSERT from JSON": asyncpg_json,
    **({"psycopg, COPY and INSERT": psycopg_staged} if find_spec("psycopg") else {}),
    "PostgresSink": sink,
}


async def measure(url: str, way: Way, batches: list[list[ExecutorEvent]]) -> tuple[float, float]:
    """Return the seconds for all *batches*, and the client's processor time."""
    async with way(url) as write:
        began, used = time.perf_counter(), time.process_time()
        for batch in batches:
            await write(batch)
        return time.perf_counter() - began, time.process_time() - used


async def run_one(server: str, name: str, batches: list[list[ExecutorEvent]]) -> tuple[float, float]:
    """Measure one method, or one case of the sink, on a table that is empty at its start."""
    plain, _, case = name.partition(": ")
    connection = await asyncpg.connect(server)
    await connection.execute("DROP SCHEMA IF EXISTS noetl CASCADE")
    if case == "NoETL's table":
        await connection.execute(NOETL_TABLE.read_text())
        await connection.execute("INSERT INTO noetl.catalog VALUES (7, 'some/playbook')")
        server += "?mapping=noetl"
    else:
        await create_schema(server)
    await connection.close()
    if case == "events again":
        await measure(server, sink, batches)
    return await measure(server, WAYS[plain], batches)


async def run(server: str, arguments: argparse.Namespace) -> None:
    """Print events per second and this process's microseconds per event."""
    meta = Raw(b'{"attempts":0,"catalog_id":7}')
    events = [structs.replace(decode(encode(event)), meta=meta) for event in make_envelopes(arguments.events)]
    batches = [events[start : start + arguments.batch] for start in range(0, len(events), arguments.batch)]
    cases = [*WAYS, "PostgresSink: events again", "PostgresSink: NoETL's table"]
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(arguments.rounds):
        for name in cases:
            took[name].append(await run_one(server, name, batches))
    ours = [seconds for seconds, _ in took["PostgresSink"]]
    print(f"batches of {arguments.batch}: events a second, times PostgresSink, and microseconds here an event\n")
    for name, rounds in took.items():
        seconds, used = zip(*rounds, strict=True)
        rate, ratio = len(events) / median(seconds), median(map(truediv, ours, seconds))
        print(f"  {name:32} {rate:9,.0f}/s {ratio:6.2f} x {median(used) / len(events) * 1e6:7.1f} us")


def main() -> None:
    """Read the arguments, start a server, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, PostgresServer(data_dir=Path(folder)) as server:
        asyncio.run(run(server.url, arguments))


if __name__ == "__main__":
    main()
