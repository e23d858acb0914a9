"""
The rate of writing a stream into Postgres: the projector and other Python clients, on the same servers, in one run.

    python -m bench.pipeline [--events 100000] [--rounds 3] [--table plain] [--plot pipeline.svg]

The stream is filled once with 400-byte events.  In each round every method writes it into an empty table through a
new durable consumer; 2,000 messages a transaction at most, acknowledged after the commit.  Afterwards the rows are
counted, and the consumer's information must show that all messages are acknowledged.  Postgres runs with fsync and its
defaults, which are printed.  `--table noetl` writes into the table of a NoETL server, with its partitions and indexes.
The docstrings in `carriers.py` and `carrier_peers.py` say which columns each method writes.  The numbers are medians of
the rounds; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import platform
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from bench.carrier_peers import NOETL_PEERS, PEERS
from bench.carriers import fetch_and_executemany, projector_into_postgres
from bench.envelopes import make_envelopes
from bench.installed import installed
from bench.plot import draw_bars, svg_path
from bench.rounds import medians, print_rates, seconds_of, take_turns
from bench.streams import acknowledged, delete_consumers, fill_stream
from bench.tables import clear, count_rows, for_table, make_target, settings
from noetl_events import encode
from noetl_events.testing.nats_server import NatsServer
from noetl_events.testing.postgres_server import PostgresServer

if TYPE_CHECKING:
    from bench.carriers import Way
    from bench.tables import Target

REFERENCE: Final = "nats-py fetch + asyncpg executemany"
OURS: Final[dict[str, Way]] = {"noetl-events projector, PostgresSink": projector_into_postgres}


async def measure(url: str, target: Target, way: Way, count: int) -> float:
    """
    Return events per second.

    Raises:
        SystemExit: the number of rows differs from that of the events.

    """
    await clear(target.dsn)
    async with way(url, target, count) as carry:
        gc.collect()
        took = await seconds_of(carry)
    await acknowledged(url, count)
    await delete_consumers(url)
    if (rows := await count_rows(target.dsn)) != count:
        raise SystemExit(f"{rows} rows of {count} events")
    return count / took


async def run(url: str, dsn: str, arguments: argparse.Namespace) -> None:
    """Print the table, and draw it."""
    target = await make_target(dsn, arguments.table)
    events = for_table(arguments.table, make_envelopes(arguments.events))
    print(f"Python {platform.python_version()}, {len(events):,} events of {len(encode(events[0]))} bytes")
    print(f"Postgres: {await settings(dsn)}; table {arguments.table}")
    await fill_stream(url, events)

    async def measure_one(_: str, way: Way) -> float:
        return await measure(url, target, way, len(events))

    peers = installed(NOETL_PEERS if arguments.table == "noetl" else PEERS)
    rates = await take_turns({REFERENCE: fetch_and_executemany} | peers | OURS, measure_one, arguments.rounds)
    print_rates("events committed and acknowledged a second", rates, reference=REFERENCE)
    if arguments.plot:
        title = f"Events from the stream into Postgres a second, {arguments.table} table"
        draw_bars(arguments.plot, title, medians(rates), ours=set(OURS))


def main() -> None:
    """Read the arguments, start the servers, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--table", choices=("plain", "noetl"), default="plain")
    parser.add_argument("--plot", type=svg_path, help="where to draw the rates, as SVG")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(NatsServer(store_dir=folder / "nats"))
        database = stack.enter_context(PostgresServer(data_dir=folder / "postgres"))
        asyncio.run(run(server.url, database.url, arguments))


if __name__ == "__main__":
    main()
