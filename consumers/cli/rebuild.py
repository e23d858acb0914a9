"""The command `noetl-events rebuild`."""

from __future__ import annotations

import asyncio
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from msgspec import structs

from consumers.backfill import Rebuild
from consumers.cli.options import AsJson, FromSequence, FromTime, Nats, read_settings, read_start
from consumers.cli.output import print_result, progress
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consume.history import History, Span
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.sink import SinkUnavailable, open_sink

if TYPE_CHECKING:
    from collections.abc import Iterator


async def rebuild(
    *,
    to: Annotated[
        str, Parameter(help="URL of the destination, such as `postgresql://host/db` or `sqlite:///events.db`.")
    ],
    from_sequence: FromSequence = None,
    from_time: FromTime = None,
    execution: Annotated[int | None, Parameter(help="Only the events of this execution.")] = None,
    wait: Annotated[float, Parameter(help="Seconds to retry while the destination or NATS is unavailable.")] = 60.0,
    nats: Nats = None,
    json: AsJson = False,
) -> int:
    """
    Emit the stream's events into a destination, from the start or a given position to the stream's present end.

    The projector's consumer is not changed.  Running the command twice stores nothing twice.  Malformed messages are
    logged and skipped; the projector has made dead letters of them.  Exit code 1 if the destination rejected an event.

    Example: `noetl-events rebuild --to sqlite:///events.db --from-time 2h`
    """
    settings = read_settings(nats)
    span = Span(stream=settings.stream.name, start=read_start(from_sequence, from_time))
    sink = open_sink(to)
    try:
        async with Connection(settings.connect) as connection, History(connection, span, patience=wait) as history:
            with progress("rebuilding", history.total) as advance:
                work = Rebuild(
                    history,
                    sink,
                    execution=execution,
                    patience=wait,
                    batch_size=settings.projector.batch_size,
                    on_batch=advance,
                )
                with _with_position(work):
                    done = await work.run()
    finally:
        await sink.aclose()
    result = structs.asdict(done)
    if not json:
        # The log has already named them.
        del result["faults"]
    print_result(result, as_json=json)
    return 1 if done.rejected else 0


@contextmanager
def _with_position(work: Rebuild) -> Iterator[None]:
    try:
        yield
    except (asyncio.CancelledError, SinkUnavailable, NatsUnavailable):
        if last := work.done.last_sequence:
            print(
                f"noetl-events: stopped after sequence {last}, with {work.done.stored} events stored; "
                f"continue with --from-sequence {last + 1}",
                file=sys.stderr,
            )
        raise
