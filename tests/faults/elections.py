"""
Stream leaders that fail one after another, and the duration of a publish: by `NatsSink`, and by a plain loop.

    python -m tests.faults.elections --rounds 5

Three servers keep the stream.  Its leader is killed and started again, or paused for five seconds, with gaps of 3, 8
and 20 seconds without a fault.  A `NatsSink` and a plain loop are connected to each server at first: the loop is
nats-py's `publish` with a timeout of a second, repeated with the same `Nats-Msg-Id` until it is acknowledged.

Right:  no emit raises; the slowest takes at most 1.2 times as long as the slowest publish of the loop in the same run;
        every acknowledged event is in the stream, once.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import nats
import structlog
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from noetl_events.envelope import encode
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import show_stream
from noetl_events.sink import SinkUnavailable
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing.events import eventually, make_event
from noetl_events.testing.nats_server import nats_cluster
from tests.faults.load import STREAM, is_made, read_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from nats.js import JetStreamContext

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.testing.nats_server import NatsServer

Kind = Literal["kill", "pause"]

GAPS: Final = (3.0, 8.0, 20.0)
KINDS: Final[tuple[Kind, ...]] = ("pause", "kill")
PAUSE: Final = 5.0
DOWN: Final = 2.0
TIMEOUT: Final = 60.0
BAR: Final = 1.2

_EMITTERS: Final = 4
_BATCH: Final = 20
_INTERVAL: Final = 0.03
_PLAIN_TIMEOUT: Final = 1.0
_PLAIN_PAUSE: Final = 0.1


class Fault(NamedTuple):
    """A failure of the leader, and the fault-free seconds after it."""

    kind: Kind
    gap: float


class Figures:
    """The results of one side, and the duration of each publish."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.seconds: list[float] = []
        self.raised: list[str] = []

    @property
    def slowest(self) -> float:
        """The slowest publish in seconds."""
        return max(self.seconds, default=0.0)

    def line(self, name: str) -> str:
        """Return the results as a line of a table."""
        ranked = sorted(self.seconds)
        last = len(ranked) - 1
        shown = [ranked[int(last * part)] for part in (0.5, 0.99, 0.999, 1.0)]
        values = "".join(f"{value:>10.3f}" for value in shown)
        return f"{name:<12}{len(self.acknowledged):>10,}{values}{len(self.raised):>8}"


class Outcome(NamedTuple):
    """The two sides, and the content of the stream in the end."""

    ours: Figures
    plain: Figures
    stored: list[int]

    @property
    def lost(self) -> set[int]:
        """The acknowledged messages that are not stored."""
        return {*self.ours.acknowledged, *self.plain.acknowledged} - {*self.stored}

    @property
    def doubled(self) -> int:
        """The number of messages that are stored more than once."""
        return len(self.stored) - len({*self.stored})

    def __str__(self) -> str:
        head = f"{'':<12}{'published':>10}" + "".join(f"{name:>10}" for name in ("p50", "p99", "p99.9", "slowest"))
        return "\n".join(
            [
                f"{head}{'raised':>8}",
                self.ours.line("ours"),
                self.plain.line("plain loop"),
                f"slowest of ours / slowest of the loop: {self.ours.slowest / max(self.plain.slowest, 1e-9):.2f}",
                f"lost {len(self.lost)}, doubled {self.doubled}",
            ]
        )


async def run_elections(root: Path, faults: Sequence[Fault]) -> Outcome:
    """Run *faults* one after another, and return the outcome."""
    ours, plain = Figures(), Figures()
    with nats_cluster(root) as members:
        async with AsyncExitStack() as stack:
            watching = await stack.enter_async_context(_connection(members, 0))
            await eventually(lambda: is_made(watching, StreamDeclaration(replicas=len(members))), timeout=180)
            over = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for place in range(len(members)):
                    sink = NatsSink(await stack.enter_async_context(_connection(members, place)), timeout=TIMEOUT)
                    js = await _plain_client(stack, members, place)
                    numbers = count(1 + place * 1_000_000)
                    for emitter in range(_EMITTERS):
                        size = _BATCH if emitter == 0 else 1
                        group.create_task(
                            _emit(sink, numbers, size=size, lane=10 * place + emitter, to=ours, over=over)
                        )
                    theirs = count(500_000_001 + place * 1_000_000)
                    for _ in range(_EMITTERS):
                        group.create_task(_loop(js, theirs, to=plain, over=over))
                await _inflict(watching, members, faults)
                over.set()
        stored = [event.event_id or 0 for event in await read_all(members[0].url, STREAM.name)]
    return Outcome(ours, plain, stored)


async def _inflict(watching: Connection, members: list[NatsServer], faults: Sequence[Fault]) -> None:
    await asyncio.sleep(1)
    for fault in faults:
        leader = await _leader(watching, members)
        if fault.kind == "pause":
            await asyncio.to_thread(leader.pause)
            await asyncio.sleep(PAUSE)
            leader.resume()
        else:
            await asyncio.to_thread(leader.kill)
            await asyncio.sleep(DOWN)
            await asyncio.to_thread(leader.start)
        await asyncio.sleep(fault.gap)


async def _emit(
    sink: NatsSink, numbers: Iterator[int], *, size: int, lane: int, to: Figures, over: asyncio.Event
) -> None:
    async for events in _events(numbers, size, lane, over):

        async def emit(events: list[ExecutorEvent] = events) -> None:
            try:
                await sink.emit_batch(events)
            except SinkUnavailable as exc:
                to.raised.append(str(exc))
            else:
                to.acknowledged += [event.event_id or 0 for event in events]

        await _timed(emit, to)


async def _loop(js: JetStreamContext, numbers: Iterator[int], *, to: Figures, over: asyncio.Event) -> None:
    async for [event] in _events(numbers, 1, 7, over):

        async def publish(event: ExecutorEvent = event) -> None:
            headers = {"Nats-Msg-Id": str(event.event_id)}
            while True:
                try:
                    await js.publish("noetl.events.plain", encode(event), timeout=_PLAIN_TIMEOUT, headers=headers)
                except (NatsError, APIError, OSError, TimeoutError):
                    await asyncio.sleep(_PLAIN_PAUSE)
                else:
                    to.acknowledged.append(event.event_id or 0)
                    return

        await _timed(publish, to)


async def _timed(work: Callable[[], Awaitable[None]], to: Figures) -> None:
    began = time.monotonic()
    await work()
    to.seconds.append(time.monotonic() - began)


async def _events(
    numbers: Iterator[int], size: int, lane: int, over: asyncio.Event
) -> AsyncIterator[list[ExecutorEvent]]:
    while not over.is_set():
        yield [make_event(next(numbers), execution_id=lane) for _ in range(size)]
        await asyncio.sleep(_INTERVAL)


async def _leader(connection: Connection, members: list[NatsServer]) -> NatsServer:
    names = {member.name: member for member in members}
    found: list[NatsServer] = []

    async def found_one() -> bool:
        try:
            cluster = (await show_stream(connection, STREAM.name)).cluster
        except NatsUnavailable:
            return False
        found.extend(names[name] for name in [cluster and cluster.leader] if name)
        return bool(found)

    await eventually(found_one, timeout=180)
    return found[0]


def _connection(members: list[NatsServer], first: int) -> Connection:
    return Connection(ConnectOptions(servers=",".join(_urls(members, first)), connect_timeout=2.0))


def _urls(members: list[NatsServer], first: int) -> list[str]:
    return [member.url for member in members[first:] + members[:first]]


async def _plain_client(stack: AsyncExitStack, members: list[NatsServer], first: int) -> JetStreamContext:
    async def hush(_: Exception) -> None:
        """Do nothing."""

    client = await nats.connect(
        _urls(members, first),
        dont_randomize=True,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.25,
        ping_interval=5,
        error_cb=hush,
    )
    stack.push_async_callback(client.close)
    return client.jetstream()


def main() -> int:
    """Run the campaign, print its results, and return 1 if a requirement is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="faults of each kind with each gap")
    parser.add_argument("--gap", type=float, action="append", help="seconds between two faults; 3, 8 and 20 by default")
    parser.add_argument("--kind", choices=KINDS, action="append")
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    is_right = True
    for kind in chosen.kind or KINDS:
        for gap in chosen.gap or GAPS:
            with tempfile.TemporaryDirectory(prefix="noetl-elections-") as root:
                outcome = asyncio.run(run_elections(Path(root), [Fault(kind, gap)] * chosen.rounds))
            sys.stdout.write(f"\n{kind} of the leader, {chosen.rounds} times, {gap:g} s apart\n{outcome}\n")
            for reason in outcome.ours.raised[:5]:
                sys.stdout.write(f"  raised: {reason}\n")
            sys.stdout.flush()
            is_right = is_right and require(outcome)
    return 0 if is_right else 1


def require(outcome: Outcome, *, slack: float = 0.0) -> bool:
    """Return true if the requirements are met, with *slack* seconds for a loaded machine."""
    is_quick = outcome.ours.slowest <= BAR * outcome.plain.slowest + slack
    return is_quick and not (outcome.ours.raised or outcome.lost or outcome.doubled)


if __name__ == "__main__":
    sys.exit(main())
