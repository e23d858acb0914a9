"""The time of an event from `emit` until it is stored."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from typing import TYPE_CHECKING

import nats

from bench.envelopes import SUBJECT, make_envelopes
from bench.publishers import TASKS, identity, nats_sink
from noetl_events import encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from noetl_events import ExecutorEvent

LONE = 2_000
PACED_SECONDS = 5.0


async def measure_lone_emits(url: str) -> dict[str, list[float]]:
    """Return the milliseconds of single publishes on an idle system; the two methods alternate, event by event."""
    client = await nats.connect(url)
    js = client.jetstream()

    async def publish(event: ExecutorEvent) -> None:
        await js.publish(SUBJECT, encode(event), headers=identity(event))

    async with nats_sink(url) as sink:
        took: dict[str, list[float]] = {"js.publish": [], "NatsSink.emit": []}
        for number, event in enumerate(make_envelopes(2 * LONE)):
            ours = number % 2
            took["NatsSink.emit" if ours else "js.publish"].append(await _time(sink.emit if ours else publish, event))
    await client.close()
    return took


async def measure_paced_emits(url: str, *, rate: float) -> list[float]:
    """
    Return the milliseconds of events emitted by 1,000 tasks at a total rate.

    The clock of an event runs from when it was due, so that a stall counts for all events that it delayed.
    """
    # The events are held until the end: the task that took the last one would free them all, and delay every task.
    # The stream has the events of the lone emits, and a known id would be handled differently.
    envelopes = make_envelopes(int(rate * PACED_SECONDS), first=2 * LONE)
    events = iter(envelopes)
    took: list[float] = []
    # A real process does not hold 100,000 events ready, so the garbage collector need not visit them.
    gc.freeze()
    async with nats_sink(url) as sink:

        async def emit_regularly() -> None:
            due = time.perf_counter() + random.random() * TASKS / rate
            for event in events:
                await asyncio.sleep(due - time.perf_counter())
                await sink.emit(event)
                took.append((time.perf_counter() - due) * 1e3)
                due += TASKS / rate

        await asyncio.gather(*(emit_regularly() for _ in range(TASKS)))
    gc.unfreeze()
    return took


async def _time(publish: Callable[[ExecutorEvent], Awaitable[object]], event: ExecutorEvent) -> float:
    began = time.perf_counter()
    await publish(event)
    return (time.perf_counter() - began) * 1e3
