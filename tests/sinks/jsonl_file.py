"""Read and write the file of a JsonlSink without the sink."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noetl_events import decode, encode
from noetl_events.sinks.jsonl import JsonlSink

if TYPE_CHECKING:
    from pathlib import Path

    from noetl_events import ExecutorEvent


def content(path: Path) -> bytes:
    """Return the content of the file."""
    return path.read_bytes()


def write(path: Path, data: bytes) -> None:
    """Make *data* the whole content of the file."""
    path.write_bytes(data)


def lines_of(*events: ExecutorEvent) -> bytes:
    """Return the file content for these events."""
    return b"".join(encode(event) + b"\n" for event in events)


def ids_in(path: Path) -> list[int | None]:
    """Return the ids in the file, read with nothing of the library except for the decoder."""
    return [decode(line).event_id for line in content(path).splitlines()]


async def record(path: Path, *events: ExecutorEvent) -> None:
    """Emit *events* through a new sink."""
    sink = JsonlSink(path)
    try:
        await sink.emit_batch(events)
    finally:
        await sink.aclose()
