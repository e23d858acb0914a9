"""The command `noetl-events bench publish`, which measures the publishing speed of this machine."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from cyclopts import App, Parameter, validators
from msgspec import structs

from consumers.cli.options import AsJson, read_settings
from consumers.cli.output import print_result, progress
from noetl_events.envelope import ExecutorEvent, encode
from noetl_events.ids import process_ids
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sinks.nats import NatsSink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from noetl_events.sink import EventSink

_SMALLEST: Final = 300


class PublishFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a benchmark, in which every emit was awaited until its event was stored."""

    events: int
    concurrency: int
    envelope_bytes: int
    seconds: float
    events_per_second: int
    emit_p50_ms: float
    emit_p99_ms: float


async def measure_publish(sink: EventSink, *, events: int, payload: int, concurrency: int) -> PublishFigures:
    """
    Emit *events* of about *payload* bytes from *concurrency* tasks, and return the figures.

    Each task awaits one emit after the other.

    Raises:
        SinkUnavailable: the sink is unavailable; the figures so far are discarded.

    """
    numbers = iter(range(events))
    make = _maker(payload)
    took: list[float] = []
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, events)):
            group.create_task(_emit_some(sink, numbers, make, took))
    seconds = time.monotonic() - began
    cuts = quantiles(took, n=100) if len(took) > 1 else took * 99
    return PublishFigures(
        events=events,
        concurrency=concurrency,
        envelope_bytes=len(encode(next(make))),
        seconds=round(seconds, 3),
        events_per_second=round(events / seconds),
        emit_p50_ms=round(cuts[49] * 1e3, 3),
        emit_p99_ms=round(cuts[98] * 1e3, 3),
    )


async def _emit_some(sink: EventSink, numbers: Iterator[int], make: Iterator[ExecutorEvent], took: list[float]) -> None:
    for _ in numbers:
        event = next(make)
        began = time.perf_counter()
        await sink.emit(event)
        took.append(time.perf_counter() - began)


def _maker(payload: int) -> Iterator[ExecutorEvent]:
    """Yield events with a wire form of about *payload* bytes."""
    new_id = process_ids()
    execution_id = new_id()
    context = {"result": {"rows": 42, "text": "x" * max(payload - _SMALLEST, 0)}}
    for _ in count():
        yield ExecutorEvent(
            execution_id=execution_id,
            event_type="command.completed",
            step="fetch_calendar",
            status="COMPLETED",
            created_at=datetime.now(UTC),
            context=context,
            event_id=new_id(),
            worker_id="bench-worker",
            meta={"attempts": 0},
        )


bench = App(name="bench", help="Measure the speed of this machine.")

Positive = validators.Number(gte=1)


@bench.command
async def publish(
    *,
    events: Annotated[int, Parameter(validator=Positive, help="Number of events to emit.")] = 100_000,
    payload: Annotated[int, Parameter(validator=Positive, help="Approximate size of an event, in bytes.")] = 400,
    concurrency: Annotated[int, Parameter(validator=Positive, help="Number of concurrent emitters.")] = 1_000,
    nats: Annotated[str | None, Parameter(help="URL of NATS; an embedded server by default.", negative=())] = None,
    json: AsJson = False,
) -> int:
    """
    Emit events through one `NatsSink`, and print the time until they were stored.

    On a given server the events stay in its stream until they expire.

    Example: `noetl-events bench publish --events 100000 --json`
    """
    with ExitStack() as stack:
        settings = read_settings(nats or _embedded(stack))
        async with Connection(settings.connect) as connection:
            await ensure_stream(connection, settings.stream)
            sink = NatsSink(connection, subject=settings.stream.template, stream=settings.stream.name)
            with progress("emitting"):
                figures = await measure_publish(sink, events=events, payload=payload, concurrency=concurrency)
            mode = sink.mode
            await sink.aclose()
    print_result(structs.asdict(figures) | {"mode": mode}, as_json=json)
    return 0


def _embedded(stack: ExitStack) -> str:
    from noetl_events.testing.nats_server import NatsServer

    folder = stack.enter_context(TemporaryDirectory(prefix="noetl-events-"))
    return stack.enter_context(NatsServer(store_dir=Path(folder))).url
