"""
A thousand clients of the live stream at a thousand events a second.

    python -m bench.sse [--clients 1000] [--rate 1000] [--seconds 10]

The clients count bytes and events in a separate process; the gateway's CPU time is read from the system.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from pathlib import Path

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_event
from noetl_events.testing.nats_server import NatsServer
from noetl_events.testing.server_process import free_port

# The interval in seconds makes fifty batches a second, each with the events due by then.
_TICK = 0.02


class _Counter(asyncio.Protocol):
    """Counts events in the raw bytes: parsing for a thousand clients would take more time than the gateway itself."""

    def __init__(self) -> None:
        self.events = 0
        self.bytes = 0
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.write(b"GET /api/events/stream HTTP/1.1\r\nhost: localhost\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        self.events += data.count(b"\nid: ")
        self.bytes += len(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.lost = True


async def measure(clients: int, rate: int, seconds: float) -> None:
    """Print the received events and bytes."""
    with tempfile.TemporaryDirectory() as folder, NatsServer(store_dir=Path(folder)) as server:
        async with Connection(ConnectOptions(servers=server.url)) as connection:
            await ensure_stream(connection, StreamDeclaration())
            port = free_port()
            command = ("-m", "consumers", "serve", "--listen", f"127.0.0.1:{port}", "--nats", server.url)
            gateway = await asyncio.create_subprocess_exec(sys.executable, *command)
            try:
                counters = await _connect(port, clients)
                began = time.perf_counter()
                await _publish(connection, rate, seconds)
                total = int(rate * seconds)
                await asyncio.sleep(2)
            finally:
                gateway.terminate()
                await gateway.wait()
    took = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    received = sum(counter.events for counter in counters)
    print(f"{clients:,} clients, {total:,} events: {received / clients / total:.1%} received within {took:.1f} s")
    print(f"{sum(counter.bytes for counter in counters) / took / 1e6:,.0f} MB/s in all")
    print(f"CPU of gateway and server: {used.ru_utime + used.ru_stime:.1f} s")


async def _connect(port: int, clients: int) -> list[_Counter]:
    loop = asyncio.get_running_loop()

    async def listens() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    await eventually(listens, timeout=30)
    counters = []
    for _ in range(clients):
        _, counter = await loop.create_connection(_Counter, "127.0.0.1", port)
        counters.append(counter)
    await eventually(lambda: all(counter.bytes for counter in counters), timeout=30)
    return counters


async def _publish(connection: Connection, rate: int, seconds: float) -> None:
    sink = NatsSink(connection)
    began, sent = time.perf_counter(), 0
    while sent < rate * seconds:
        due = min(int((time.perf_counter() - began) * rate), int(rate * seconds))
        if due > sent:
            await sink.emit_batch([make_event(number) for number in range(sent + 1, due + 1)])
            sent = due
        await asyncio.sleep(_TICK)
    await sink.aclose()


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--rate", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    asyncio.run(measure(options.clients, options.rate, options.seconds))


if __name__ == "__main__":
    main()
