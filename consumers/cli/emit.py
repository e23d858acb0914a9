"""`noetl-events emit`."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
from cyclopts import Parameter
from msgspec import structs

from consumers.carry import carry
from consumers.cli.options import AsJson, Nats, Partitions, read_settings
from consumers.cli.output import print_result, progress
from noetl_events.envelope import MalformedEvent, decode
from noetl_events.ids import process_ids
from noetl_events.jetstream.connection import Connection
from noetl_events.sinks.nats import NatsSink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from noetl_events.envelope import ExecutorEvent

log = structlog.get_logger()


async def emit(
    file: Annotated[
        str, Parameter(help="NDJSON, one event a line; `-` reads standard input.", allow_leading_hyphen=True)
    ] = "-",
    *,
    partitions: Partitions = None,
    nats: Nats = None,
    wait: Annotated[float, Parameter(help="Seconds to wait while NATS is away.")] = 60.0,
    json: AsJson = False,
) -> int:
    """
    Publish events from a file or a pipe; done when the stream has stored them.

    Emitting the same file again within the stream's duplicate window stores nothing twice, if its events carry ids.
    A line that is no event is named and left out, and the exit code is 1.

    Example: `noetl-events emit run.ndjson` or `tail -f run.ndjson | noetl-events emit`
    """
    settings = read_settings(nats, partitions=partitions)
    malformed: list[str] = []
    async with Connection(settings.connect) as connection:
        sink = NatsSink(
            connection,
            subject=settings.stream.template,
            timeout=min(wait, 30.0),
            stream=settings.stream.name,
            message_id=settings.publish.message_id,
        )
        with _opened(file) as lines, progress("emitting") as advance:
            events = _readable(lines, file, malformed)
            carried = await carry(events, sink, patience=wait, on_batch=advance)
        await sink.aclose()
    print_result(structs.asdict(carried) | {"malformed": len(malformed)}, as_json=json)
    return 1 if malformed or carried.rejected else 0


def _readable(lines: BinaryIO, source: str, malformed: list[str]) -> Iterator[ExecutorEvent]:
    """Yield the event of each line; one that is emitted again after an answer was lost must have its id before."""
    new_id = process_ids()
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                event = decode(line)
                yield event if event.event_id is not None else structs.replace(event, event_id=new_id())
        except MalformedEvent as exc:
            malformed.append(f"{source}:{number}: {exc}")
            log.error("event.malformed", reason=malformed[-1])


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    if file.startswith("-"):
        # So that `-` can be said, everything with a hyphen in front comes here.
        raise ValueError(f"unknown option {file}; `noetl-events emit --help` has those there are, ./{file} is a file")
    with Path(file).open("rb") as lines:
        yield lines
