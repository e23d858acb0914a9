"""
How fast events get into a stream: NatsSink beside what nats-py offers, on one server, in one run.

    python bench/publish.py [--events 20000] [--rounds 3]

Every way stores the same 400-byte envelopes with `Nats-Msg-Id`; each round starts with an empty stream, and the count
in the stream is checked.  Times are the best of the rounds: the machine's noise only ever makes them longer.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from noetl_events import ExecutorEvent, encode
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.topology import StreamDeclaration, ensure_stream, jetstream
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing.nats_server import NatsServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Way = Callable[[Connection, list[ExecutorEvent]], Awaitable[None]]

STREAM = StreamDeclaration(name="bench", subjects=("noetl.events.>",))
SUBJECT = "noetl.events.command.completed"
EMITTERS = 1_000


def make_envelopes(count: int) -> list[ExecutorEvent]:
    """Return *count* events of 400 bytes each."""
    now = datetime.now(UTC)
    return [
        ExecutorEvent(
            execution_id=478775660589088776 + number % 50,
            event_type="command.completed",
            step="fetch_calendar",
            status="COMPLETED",
            created_at=now,
            context={"result": {"items": number % 10, "text": "x" * 150}},
            event_id=327432001294827520 + number,
            worker_id="worker-7",
            meta={"attempts": 0},
        )
        for number in range(count)
    ]


async def one_by_one(connection: Connection, events: list[ExecutorEvent]) -> None:
    """`js.publish`, each awaited before the next: what a first version does."""
    js = await jetstream(connection)
    for event in events:
        await js.publish(SUBJECT, encode(event), headers={"Nats-Msg-Id": str(event.event_id)})


async def publish_async(connection: Connection, events: list[ExecutorEvent]) -> None:
    """`js.publish_async`, all acks awaited at the end: nats-py's fast way."""
    js = await jetstream(connection)
    acks = [
        await js.publish_async(SUBJECT, encode(event), headers={"Nats-Msg-Id": str(event.event_id)}) for event in events
    ]
    await asyncio.gather(*acks)


async def emit_batches(connection: Connection, events: list[ExecutorEvent]) -> None:
    """`NatsSink.emit_batch` with 500 events a call, each awaited before the next: a projector that mirrors."""
    sink = NatsSink(connection)
    for start in range(0, len(events), 500):
        await sink.emit_batch(events[start : start + 500])
    await sink.aclose()


async def emit_all(connection: Connection, events: list[ExecutorEvent]) -> None:
    """`NatsSink.emit_batch` with everything."""
    sink = NatsSink(connection)
    await sink.emit_batch(events)
    await sink.aclose()


async def emit_singly(connection: Connection, events: list[ExecutorEvent]) -> None:
    """`NatsSink.emit` from 1000 tasks at a time, each awaiting its event before the next: a worker pod under load."""
    sink = NatsSink(connection)
    left = iter(events)

    async def emitter() -> None:
        for event in left:
            await sink.emit(event)

    await asyncio.gather(*(emitter() for _ in range(EMITTERS)))
    await sink.aclose()


async def emit_plain(connection: Connection, events: list[ExecutorEvent]) -> None:
    """`NatsSink.emit_batch` with everything, on a stream without fast-ingest batches."""
    js = await jetstream(connection)
    info = await js.stream_info(STREAM.name)
    await js.update_stream(info.config.evolve(allow_batched=False))
    await emit_all(connection, events)


WAYS: dict[str, tuple[Way, float]] = {
    "js.publish, one by one": (one_by_one, 0.2),
    "js.publish_async": (publish_async, 1.0),
    "NatsSink.emit_batch(all)": (emit_all, 1.0),
    "NatsSink.emit_batch(500)": (emit_batches, 1.0),
    "NatsSink.emit, 1000 tasks": (emit_singly, 1.0),
    "NatsSink, plain publishes": (emit_plain, 1.0),
}


async def measure(connection: Connection, way: Way, events: list[ExecutorEvent]) -> float:
    """Return events a second."""
    js = await jetstream(connection)
    await ensure_stream(connection, STREAM)
    began = time.perf_counter()
    await way(connection, events)
    took = time.perf_counter() - began
    stored = (await js.stream_info(STREAM.name)).state.messages
    await js.delete_stream(STREAM.name)
    if stored != len(events):
        raise SystemExit(f"{way.__name__}: {stored} of {len(events)} stored")
    return len(events) / took


async def latency(connection: Connection, emit: Callable[[ExecutorEvent], Awaitable[object]]) -> list[float]:
    """Return the milliseconds of single emits, one after the other."""
    await ensure_stream(connection, STREAM)
    took = []
    for event in make_envelopes(1_000):
        began = time.perf_counter()
        await emit(event)
        took.append((time.perf_counter() - began) * 1e3)
    await (await jetstream(connection)).delete_stream(STREAM.name)
    return took


async def run(url: str, events: int, rounds: int) -> None:
    """Print both tables."""
    async with Connection(ConnectOptions(servers=url)) as connection:
        rates: dict[str, float] = {}
        envelopes = make_envelopes(events)
        for _ in range(rounds):
            for name, (way, share) in WAYS.items():
                rate = await measure(connection, way, envelopes[: int(events * share)])
                rates[name] = max(rates.get(name, 0.0), rate)
        print_rates(rates, len(encode(envelopes[0])))
        await print_latencies(connection)


def print_rates(rates: dict[str, float], size: int) -> None:
    """Print events a second, and how many times the first way that is."""
    base = next(iter(rates.values()))
    print(f"events of {size} bytes a second; best of the rounds\n")
    for name, rate in rates.items():
        print(f"{name:28} {rate:10,.0f}/s {rate / base:8.1f} x")


async def print_latencies(connection: Connection) -> None:
    """Print what one emit takes when nothing else is going on."""
    js = await jetstream(connection)
    sink = NatsSink(connection)

    async def publish(event: ExecutorEvent) -> None:
        await js.publish(SUBJECT, encode(event), headers={"Nats-Msg-Id": str(event.event_id)})

    print("\none event at a time: milliseconds, median and 99th percentile\n")
    for name, emit in {"js.publish": publish, "NatsSink.emit": sink.emit}.items():
        took = await latency(connection, emit)
        print(f"{name:28} {statistics.median(took):10.3f} {statistics.quantiles(took, n=100)[98]:10.3f}")
    await sink.aclose()


def main() -> None:
    """Read the arguments, start a server, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, NatsServer(store_dir=Path(folder)) as server:
        asyncio.run(run(server.url, arguments.events, arguments.rounds))


if __name__ == "__main__":
    main()
