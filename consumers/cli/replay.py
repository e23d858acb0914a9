"""`noetl-events replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from msgspec import structs

from consumers.carry import carry
from consumers.cli.options import AsJson
from consumers.cli.output import print_result, progress
from noetl_events.sink import open_sink
from noetl_events.sinks.segments import read_recording


async def replay(
    file: Annotated[
        Path, Parameter(help="A recording, as a `jsonl:` sink writes it: a file, a `.gz` file or a directory.")
    ],
    *,
    to: Annotated[str, Parameter(help="URL of the destination, as `nats://host:4222` or `sqlite:///events.db`.")],
    wait: Annotated[float, Parameter(help="Seconds to wait while the destination is away.")] = 60.0,
    json: AsJson = False,
) -> int:
    """
    Emit a recording to any sink, in its order and as fast as the sink takes it.

    Replaying twice stores nothing twice: the events keep their ids.

    Example: `noetl-events replay run.jsonl --to sqlite:///events.db`
    """
    sink = open_sink(to)
    try:
        with progress("replaying") as advance:
            carried = await carry(read_recording(file), sink, patience=wait, on_batch=advance)
    finally:
        await sink.aclose()
    print_result(structs.asdict(carried), as_json=json)
    return 1 if carried.rejected else 0
