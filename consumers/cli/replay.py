"""The command `noetl-events replay`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from msgspec import structs

from consumers.backfill import copy_events, read_speed
from consumers.cli.options import AsJson
from consumers.cli.output import print_result, progress
from noetl_events.sink import open_sink
from noetl_events.sinks.recording import count_lines, read_recording


async def replay(
    file: Annotated[Path, Parameter(help="Recording of a `jsonl:` sink: a file, a `.gz` file or a directory.")],
    *,
    to: Annotated[str, Parameter(help="URL of the destination, such as `nats://host:4222` or `sqlite:///events.db`.")],
    speed: Annotated[
        str, Parameter(help="`1x` for the original speed, `10x` for ten times that, or `max`.", negative=())
    ] = "max",
    wait: Annotated[float, Parameter(help="Seconds to retry while the destination is unavailable.")] = 60.0,
    json: AsJson = False,
) -> int:
    """
    Emit a recording to any sink, in its order.

    Replaying twice stores nothing twice, because the events keep their ids.

    Example: `noetl-events replay run.jsonl --to sqlite:///events.db`
    """
    times = read_speed(speed)
    sink = open_sink(to)
    try:
        # Counting reads the whole recording, so the total is counted for a terminal only.
        total = await asyncio.to_thread(count_lines, file) if sys.stderr.isatty() else None
        with progress("replaying", total) as advance:
            copied = await copy_events(read_recording(file), sink, patience=wait, speed=times, on_batch=advance)
    finally:
        await sink.aclose()
    print_result(structs.asdict(copied), as_json=json)
    return 1 if copied.rejected else 0
