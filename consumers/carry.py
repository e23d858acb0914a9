"""Carry events from an iterator into a sink, batch by batch, waiting while the sink is away."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from consumers.pacing import FULL, paced
from noetl_events.retry import Backoff, Retry
from noetl_events.sink import EventsRejected, SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.sink import EventSink

_WAITS: Final = Backoff(maximum=5.0)

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


class Rejections(dict[int, str]):
    """The reasons of the rejected events of a batch, by their places; `conflicts` are the places of conflicts."""

    conflicts: frozenset[int] = frozenset()


async def emit_patiently(
    batch: Sequence[ExecutorEvent], sink: EventSink, *, patience: float, overrun: float = math.inf
) -> Rejections:
    """
    Emit *batch*, again and again while the sink is away, and return the reasons of the rejected events by their place.

    An attempt that follows a failed one is given up *overrun* seconds after the *patience* has ended.

    Raises:
        SinkUnavailable: the sink took nothing for *patience* seconds.

    """
    rejections, error = Rejections(), None
    end = asyncio.get_running_loop().time() + patience + overrun
    async for attempt in Retry(SinkUnavailable, backoff=_WAITS, patience=patience, log="sink", events=len(batch)):
        with attempt:
            try:
                async with asyncio.timeout_at(None if error is None or math.isinf(end) else end) as limit:
                    await sink.emit_batch(batch)
            except SinkUnavailable as exc:
                error = exc
                raise
            except TimeoutError:
                if error is None or not limit.expired():
                    raise
                raise error from None
            except EventsRejected as exc:
                rejections = Rejections(exc.reasons)
                rejections.conflicts = exc.conflicts
    return rejections
