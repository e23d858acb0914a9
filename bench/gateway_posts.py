"""
The duration of a post at a steady rate, through a gateway process and a real nats-server.

    python -m bench.gateway_posts [--rate 1000] [--seconds 60]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp
import msgspec

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream, show_stream
from noetl_events.testing import eventually, make_event
from noetl_events.testing.nats_server import NatsServer
from noetl_events.testing.server_process import free_port

_POSTERS = 64


async def measure(rate: int, seconds: float) -> None:
    """Print the durations of the posts, and whether all events are stored."""
    with tempfile.TemporaryDirectory() as folder, NatsServer(store_dir=Path(folder)) as server:
        async with Connection(ConnectOptions(servers=server.url)) as connection:
            await ensure_stream(connection, StreamDeclaration())
            port = free_port()
            command = ("-m", "consumers", "serve", "--listen", f"127.0.0.1:{port}", "--nats", server.url)
            gateway = await asyncio.create_subprocess_exec(sys.executable, *command)
            try:
                taken, answers = await _post(f"http://127.0.0.1:{port}", rate, seconds)
            finally:
                gateway.terminate()
                await gateway.wait()
            stored = (await show_stream(connection, StreamDeclaration().name)).state.messages
    _report(taken, answers, stored)


async def _post(url: str, rate: int, seconds: float) -> tuple[list[float], Counter[int]]:
    taken: list[float] = []
    answers: Counter[int] = Counter()
    numbers = itertools.count()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_POSTERS)) as session:

        async def is_ready() -> bool:
            try:
                async with session.get(f"{url}/readyz") as response:
                    return response.ok
            except aiohttp.ClientError:
                return False

        await eventually(is_ready, timeout=30)
        begin = time.perf_counter()

        async def post_in_turn() -> None:
            while (number := next(numbers)) < rate * seconds:
                due = begin + number / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                body = msgspec.json.encode(make_event(number + 1, context={"text": "x" * 600}))
                async with session.post(f"{url}/api/events", data=body) as response:
                    await response.read()
                    answers[response.status] += 1
                # The time runs from when the post was due, so that a late client counts too.
                taken.append(time.perf_counter() - due)

        await asyncio.gather(*(post_in_turn() for _ in range(_POSTERS)))
    return taken, answers


def _report(taken: list[float], answers: Counter[int], stored: int) -> None:
    taken.sort()
    marks = {f"p{part * 100:g}": taken[int(part * (len(taken) - 1))] * 1_000 for part in (0.5, 0.99, 0.999, 1)}
    print(f"{len(taken):,} posts, answers {dict(answers)}, {stored:,} stored")
    print(", ".join(f"{name} {milliseconds:.1f} ms" for name, milliseconds in marks.items()))


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    asyncio.run(measure(options.rate, options.seconds))


if __name__ == "__main__":
    main()
