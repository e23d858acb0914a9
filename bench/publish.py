"""
The rate of publishing events to a stream: NatsSink and other Python clients, on one server, in one run.

    python -m bench.publish [--events 50000] [--rounds 5] [--plot publish.svg]

Every method stores the same 400-byte events under `Nats-Msg-Id`, in a stream that is empty at its start; the messages
in the stream are counted afterwards.  The numbers are medians of the rounds; ratios are taken within each round, where
the methods alternate, and are medians too, so that a machine that slows down changes none.  A warm-up round before the
first is not counted, because in it every method pays for the one-time work of a new process and a new server.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import platform
import tempfile
import time
from contextlib import ExitStack
from operator import itemgetter, truediv
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING

from bench.envelopes import make_envelopes
from bench.latency import measure_lone_emits, measure_paced_emits
from bench.peers import installed_peers
from bench.plot import draw_bars, svg_path
from bench.publishers import blob, emit_all, emit_batches, emit_fsync, emit_singly, one_by_one, publish_async
from noetl_events import encode
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing.nats_server import NatsServer

if TYPE_CHECKING:
    from bench.publishers import Way
    from noetl_events import ExecutorEvent

STREAM = StreamDeclaration(name="bench", subjects=("noetl.events.>",))
SYNC_ALWAYS = "jetstream { sync_interval: always }"

ONE_BY_ONE = "js.publish, one by one"
OURS: dict[str, Way] = {
    "NatsSink.emit_batch(all)": emit_all,
    "NatsSink.emit_batch(500)": emit_batches,
    "NatsSink.emit, 1000 tasks": emit_singly,
}
CLIENT: dict[str, Way] = {ONE_BY_ONE: one_by_one, "js.publish_async": publish_async}
SYNCED: dict[str, Way] = CLIENT | {"NatsSink, stored": emit_all, "NatsSink, durable=fsync": emit_fsync}
# These methods wait for a round trip or a sync per event: a tenth of the events suffices for the rate.
SLOW = 0.1


async def measure(url: str, way: Way, events: list[ExecutorEvent]) -> float:
    """Return events per second."""
    async with Connection(ConnectOptions(servers=url)) as connection:
        await ensure_stream(connection, STREAM)
        async with way(url, events) as publish:
            gc.collect()
            began = time.perf_counter()
            await publish()
            took = time.perf_counter() - began
        js = await jetstream(connection)
        stored = (await js.stream_info(STREAM.name)).state.messages
        await js.delete_stream(STREAM.name)
    if stored != len(events):
        raise SystemExit(f"{way.__name__}: {stored} of {len(events)} stored")
    return len(events) / took


async def compare(url: str, ways: dict[str, Way], events: int, rounds: int) -> dict[str, list[float]]:
    """Return the events per second of each method, round by round."""
    envelopes = make_envelopes(events)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + rounds):
        for name, way in ways.items():
            share = SLOW if name == ONE_BY_ONE else 1.0
            rates[name].append(await measure(url, way, envelopes[: int(events * share)]))
    return {name: counted for name, (_, *counted) in rates.items()}


def medians(rates: dict[str, list[float]]) -> dict[str, float]:
    """Return the median of each method, the slowest first."""
    return dict(sorted(((name, median(some)) for name, some in rates.items()), key=itemgetter(1)))


def print_rates(title: str, rates: dict[str, list[float]]) -> None:
    """Print events per second, and the ratios to the slowest and the fastest method, each within its round."""
    ordered = medians(rates)
    slowest, fastest = (rates[name] for name in (ONE_BY_ONE, list(ordered)[-1]))
    print(f"\n{title}\n")
    for name, rate in ordered.items():
        times = median(map(truediv, rates[name], slowest))
        share = median(map(truediv, rates[name], fastest))
        print(f"  {name:42} {rate:9,.0f}/s {times:7.1f} x {share:6.2f}")


async def print_latencies(url: str, peak: float) -> None:
    """Print the time of one emit, alone and among a thousand."""
    async with Connection(ConnectOptions(servers=url)) as connection:
        await ensure_stream(connection, STREAM)
        print("\nmilliseconds of one event, median and 99th percentile\n")
        for name, took in (await measure_lone_emits(url)).items():
            print(f"  {name:42} {median(took):9.3f} {quantiles(took, n=100)[98]:9.3f}")
        took = await measure_paced_emits(url, rate=peak / 2)
        name = f"NatsSink.emit, 1000 tasks, {peak / 2:,.0f}/s"
        print(f"  {name:42} {median(took):9.3f} {quantiles(took, n=100)[98]:9.3f}")
        await (await jetstream(connection)).delete_stream(STREAM.name)


async def run(url: str, synced_url: str, arguments: argparse.Namespace) -> None:
    """Print the tables, and draw the first."""
    size = len(encode(make_envelopes(1)[0]))
    print(f"Python {platform.python_version()}, {size}-byte events; x: times js.publish one by one; share of the best")
    rates = await compare(
        url, CLIENT | installed_peers() | OURS | {"blob of the same batches": blob}, arguments.events, arguments.rounds
    )
    print_rates("events stored a second", rates)
    if arguments.plot:
        draw_bars(arguments.plot, "Events stored a second", medians(rates), ours=set(OURS))
    await print_latencies(url, median(rates["NatsSink.emit, 1000 tasks"]))
    synced = await compare(synced_url, SYNCED, arguments.events // 4, min(arguments.rounds, 3))
    print_rates("events synced to disk a second: a server with sync_interval: always", synced)


def main() -> None:
    """Read the arguments, start the servers, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plot", type=svg_path, help="where to draw the rates, as SVG")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(NatsServer(store_dir=folder / "stored"))
        synced = stack.enter_context(NatsServer(store_dir=folder / "synced", config=SYNC_ALWAYS))
        asyncio.run(run(server.url, synced.url, arguments))


if __name__ == "__main__":
    main()
