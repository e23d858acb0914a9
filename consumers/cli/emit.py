"""The command `noetl-events emit`, which emits the lines of a file or a pipe as they arrive."""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

import structlog
from cyclopts import Parameter
from msgspec import structs

from consumers.backfill import emit_patiently
from consumers.cli.options import AsJson, Nats, Partitions, read_settings
from consumers.cli.output import print_result, progress
from consumers.daemon import run_until_stopped
from noetl_events.envelope import MalformedEvent, decode
from noetl_events.ids import process_ids
from noetl_events.jetstream.connection import Connection
from noetl_events.sink import SinkUnavailable
from noetl_events.sinks.nats import NatsSink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from io import BufferedReader

    from noetl_events.envelope import ExecutorEvent

_CHUNK: Final = 64 * 1024
_CHUNKS: Final = 4


async def lines_of(file: BufferedReader) -> AsyncIterator[list[bytes]]:
    """
    Yield the lines that have arrived, waiting for the first; the last line may lack its line end.

    A daemon thread reads the file, so a silent pipe does not delay the exit of the process.

    Raises:
        OSError: *file* cannot be read.

    """
    loop, chunks = asyncio.get_running_loop(), asyncio.Queue[list[bytes] | OSError | None](_CHUNKS)

    def put(chunk: list[bytes] | OSError | None) -> None:
        asyncio.run_coroutine_threadsafe(chunks.put(chunk), loop).result()

    def read() -> None:
        # The loop may already be closed.
        with suppress(RuntimeError, CancelledError):
            rest = b""
            try:
                while data := file.read1(_CHUNK):
                    *whole, rest = (rest + data).split(b"\n")
                    if whole:
                        put(whole)
                put([rest] if rest else [])
            except OSError as exc:
                put(exc)
            put(None)

    threading.Thread(target=read, name="lines", daemon=True).start()
    while (chunk := await chunks.get()) is not None:
        if isinstance(chunk, OSError):
            raise chunk
        if chunk:
            yield chunk


_BATCH: Final = 500
# Seconds beyond the timeout for the answers to the last messages sent.
_OVERRUN: Final = 1.0

log = structlog.get_logger()


async def emit(
    file: Annotated[
        str, Parameter(help="NDJSON file with one event per line; `-` for standard input.", allow_leading_hyphen=True)
    ] = "-",
    *,
    partitions: Partitions = None,
    nats: Nats = None,
    wait: Annotated[float, Parameter(help="Seconds to retry while NATS is unavailable.")] = 60.0,
    json: AsJson = False,
) -> int:
    """
    Publish events from a file or a pipe as they arrive, and return once the stream has stored them.

    Emitting the same file again within the stream's duplicate window stores nothing twice, if its events have ids.  A
    line that is no valid event is logged and skipped, and the exit code is 1.

    SIGTERM and SIGINT stop the command at once: with 0 if every event read is stored, else with 1 and the number of
    events in flight; emit these again.

    Example: `noetl-events emit run.ndjson` or `tail -f run.ndjson | noetl-events emit`
    """
    settings = read_settings(nats, partitions=partitions)
    async with Connection(settings.connect) as connection:
        sink = NatsSink(
            connection,
            subject=settings.stream.template,
            timeout=min(wait, 30.0),
            stream=settings.stream.name,
            message_id=settings.publish.message_id,
        )
        with _opened(file) as lines, progress("emitting") as advance:
            work = _Emitting(sink, file, patience=wait, on_batch=advance)
            await run_until_stopped(work.run(lines))
        await sink.aclose()
    print_result({"stored": work.stored, "rejected": work.rejected, "malformed": work.malformed}, as_json=json)
    if work.in_flight:
        raise SinkUnavailable(
            f"stopped with {work.in_flight} events in flight; emit the input again from line {work.line}"
        )
    return 1 if work.malformed or work.rejected else 0


class _Emitting:
    """The emitter of the lines of *source* into *sink*, with counts of the results."""

    def __init__(self, sink: NatsSink, source: str, *, patience: float, on_batch: Callable[[int], None]) -> None:
        self.stored = self.rejected = self.malformed = 0
        self.in_flight = 0
        """Number of events that were read and may not be stored."""
        self.line = 1
        """Line number of the first of these events."""

        self._sink = sink
        self._source = source
        self._patience = patience
        self._on_batch = on_batch
        self._new_id = process_ids()
        self._read = 0

    async def run(self, file: BufferedReader) -> None:
        async for lines in lines_of(file):
            for start in range(0, len(lines), _BATCH):
                self.line = self._read + 1
                if batch := [event for line in lines[start : start + _BATCH] if (event := self._event(line))]:
                    await self._emit(batch)

    async def _emit(self, batch: list[ExecutorEvent]) -> None:
        self.in_flight = len(batch)
        reasons = await emit_patiently(batch, self._sink, patience=self._patience, overrun=_OVERRUN)
        for place, reason in sorted(reasons.items()):
            log.error("event.rejected", event_id=batch[place].event_id, reason=reason)
        self.rejected += len(reasons)
        self.stored += len(batch) - len(reasons)
        self.in_flight = 0
        self._on_batch(len(batch))

    def _event(self, line: bytes) -> ExecutorEvent | None:
        """Return the event of *line*, with an id, so that emitting it again after a lost answer stores it once."""
        self._read += 1
        if not line.strip():
            return None
        try:
            event = decode(line)
        except MalformedEvent as exc:
            self.malformed += 1
            log.error("event.malformed", reason=f"{self._source}:{self._read}: {exc}")
            return None
        return event if event.event_id is not None else structs.replace(event, event_id=self._new_id())


@contextmanager
def _opened(file: str) -> Iterator[BufferedReader]:
    if file == "-":
        yield cast("BufferedReader", sys.stdin.buffer)
        return
    if file.startswith("-"):
        # `-` requires leading hyphens to be allowed, so unknown options arrive here.
        raise ValueError(f"unknown option {file}; `noetl-events emit --help` lists all; write ./{file} for a file")
    with Path(file).open("rb") as lines:
        yield lines
