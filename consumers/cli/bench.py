"""`noetl-events bench publish`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from cyclopts import App, Parameter, validators
from msgspec import structs

from consumers.benchmark import measure_publish
from consumers.cli.options import AsJson, read_settings
from consumers.cli.output import print_result, progress
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.topology import ensure_stream
from noetl_events.sinks.nats import NatsSink

bench = App(name="bench", help="Measure this machine.")

Positive = validators.Number(gte=1)


@bench.command
async def publish(
    *,
    events: Annotated[int, Parameter(validator=Positive, help="How many events to emit.")] = 100_000,
    payload: Annotated[int, Parameter(validator=Positive, help="Bytes of one envelope, about.")] = 400,
    concurrency: Annotated[int, Parameter(validator=Positive, help="Tasks that emit at a time.")] = 1_000,
    nats: Annotated[str | None, Parameter(help="URL of NATS; by default an embedded server.", negative=())] = None,
    json: AsJson = False,
) -> int:
    """
    Emit events through one `NatsSink` and say how long each took to be stored.

    On a server that is given, the events stay in its stream until they are too old.

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
