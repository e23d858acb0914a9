"""What the tests of JsonlSink write to its file and read from it, around the sink."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noetl_events import decode, encode
from noetl_events.sinks.jsonl import JsonlSink

if TYPE_CHECKING:
    from pathlib import Path

    from noetl_events import ExecutorEvent


def content(path: Path) -> bytes:
    """Return what the file holds."""
    return path.read_bytes()


def write(path: Path, data: bytes) -> None:
    """Make *data* all the file holds."""
    path.write_bytes(data)


def lines_of(*events: ExecutorEvent) -> bytes:
    """Return what a file of these events holds."""
    return b"".join(encode(event) + b"\n" for event in events)


def ids_in(path: Path) -> list[int | None]:
    """Return the ids in the file, read without our own code but for the decoder."""
    return [decode(line).event_id for line in content(path).splitlines()]


async def record(path: Path, *events: ExecutorEvent) -> None:
    """Emit *events* through a sink of their own."""
    sink = JsonlSink(path)
    try:
        await sink.emit_batch(events)
    finally:
        await sink.aclose()
