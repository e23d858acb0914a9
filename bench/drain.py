"""
The rate of draining a stream: the projector and other Python clients, on one server, in one run.

    python -m bench.drain [--events 300000] [--rounds 3] [--plot drain.svg]

The stream is filled once with 400-byte events.  In each round every method drains it from the first message to the
last, through a new durable consumer; the time includes an explicit ack for each message.  Then the consumer's
information must show that all are acknowledged.  The docstrings in `drains.py` and `drain_peers.py` say how a method
handles a message: the projector decodes and checks every event, most others decode none; nats-sinks, with a file for
each message, drains one message of fifty.  The numbers are medians of the rounds; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from bench.drain_peers import PEERS, SLOW, nats_sinks
from bench.drains import fetch_and_ack, fetch_decode_and_ack, projector_into_noop
from bench.envelopes import make_envelopes
from bench.installed import installed
from bench.plot import draw_bars, svg_path
from bench.rounds import medians, print_rates, seconds_of, take_turns
from bench.streams import acknowledged, delete_consumers, fill_stream
from noetl_events import encode
from noetl_events.testing.nats_server import NatsServer

if TYPE_CHECKING:
    from bench.drains import Way

REFERENCE: Final = "nats-py fetch(500), ack each"
OURS: Final[dict[str, Way]] = {"noetl-events projector into noop": projector_into_noop}
CLIENT: Final[dict[str, Way]] = {REFERENCE: fetch_and_ack, "nats-py fetch(500), decode, ack": fetch_decode_and_ack}


async def measure(url: str, way: Way, count: int) -> float:
    """Return messages per second."""
    async with way(url, count) as drain:
        gc.collect()
        took = await seconds_of(drain)
    await acknowledged(url, count)
    await delete_consumers(url)
    return count / took


async def run(url: str, arguments: argparse.Namespace) -> None:
    """Print the table, and draw it."""
    size = len(encode(make_envelopes(1)[0]))
    print(f"Python {platform.python_version()}, {arguments.events:,} messages of {size} bytes")
    await fill_stream(url, make_envelopes(arguments.events))

    async def measure_one(_: str, way: Way) -> float:
        return await measure(url, way, int(arguments.events * (SLOW if way is nats_sinks else 1)))

    rates = await take_turns(CLIENT | installed(PEERS) | OURS, measure_one, arguments.rounds)
    print_rates("messages drained a second", rates, reference=REFERENCE)
    if arguments.plot:
        draw_bars(arguments.plot, "Messages drained a second, each acknowledged", medians(rates), ours=set(OURS))


def main() -> None:
    """Read the arguments, start the server, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=svg_path, help="where to draw the rates, as SVG")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as folder, NatsServer(store_dir=Path(folder)) as server:
        asyncio.run(run(server.url, arguments))


if __name__ == "__main__":
    main()
