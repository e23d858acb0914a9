"""Carry events from an iterator into a sink, batch by batch, waiting while the sink is away."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec
import structlog

from consumers.pacing import FULL, paced
from noetl_events.backoff import Backoff
from noetl_events.sink import EventsRejected, SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.sink import EventSink

log = structlog.get_logger()


class Carried(msgspec.Struct, kw_only=True):
    """What became of the events."""

    stored: int = 0
    rejected: int = 0


async def carry(
    events: Iterator[ExecutorEvent],
    sink: EventSink,
    *,
    patience: float,
    batch_size: int = 500,
    speed: float = FULL,
    on_batch: Callable[[int], None] = lambda _: None,
) -> Carried:
    """
    Emit all *events* and return how many were stored and rejected; each rejection is logged with its reason.

    With *speed* they go at so many times the pace at which they happened, by their `created_at`.

    Raises:
        SinkUnavailable: the sink took nothing for *patience* seconds; everything before this batch is stored.

    """
    carried = Carried()
    async with aclosing(paced(events, speed=speed, size=batch_size)) as batches:
        async for batch in batches:
            reasons = await emit_patiently(batch, sink, patience=patience)
            for place, reason in sorted(reasons.items()):
                log.error("event.rejected", event_id=batch[place].event_id, reason=reason)
            carried.rejected += len(reasons)
            carried.stored += len(batch) - len(reasons)
            on_batch(len(batch))
    return carried


async def emit_patiently(batch: Sequence[ExecutorEvent], sink: EventSink, *, patience: float) -> dict[int, str]:
    """
    Emit *batch*, again and again while the sink is away, and return the reasons of the rejected events by their place.

    Raises:
        SinkUnavailable: the sink took nothing for *patience* seconds.

    """
    give_up = time.monotonic() + patience
    for wait in Backoff(maximum=5.0).waits():
        try:
            await sink.emit_batch(batch)
        except EventsRejected as exc:
            return exc.reasons
        except SinkUnavailable as exc:
            if time.monotonic() >= give_up:
                raise
            log.warning("sink.away", reason=exc.reason)
            await asyncio.sleep(exc.retry_after or wait)
        else:
            break
    return {}
