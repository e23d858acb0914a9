"""A sink that prints events: for reading them, and for pipes."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from noetl_events.ids import RecentIds
from noetl_events.sink import EventsRejected, SinkUnavailable
from noetl_events.sinks.lines import encode_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from noetl_events.envelope import ExecutorEvent


class StdoutSink:
    """
    Print each event as one line of JSON; emit returns when the line is written to the stream.

    - The reader of the stream decides how durable a line is.
    - Duplicates are skipped among the last 65,536 events of this sink; those of other sinks are unknown.
    - `SinkUnavailable` is raised if the reader has closed the pipe, or the disk is full.  The next emit first completes
      the lines of the failed one, so no line stays incomplete, and none is printed twice.

    Args:
        stream: binary stream to print to instead of standard output; it is not closed.

    """

    def __init__(self, stream: BinaryIO | None = None) -> None:
        # Text left in print()'s layer is written first, or it would end up within a line.
        self._flush = sys.stdout.flush if stream is None else stream.flush
        # Write below the buffer, because lines of a failed flush would be written again by a later one.
        self._stream = _below_buffer(sys.stdout.buffer if stream is None else stream)
        self._seen = RecentIds()
        self._unprinted = b""
        self._closed = False
        # A single thread keeps lines whole and in order, and a stalled reader does not block the event loop.
        self._printer = ThreadPoolExecutor(1, thread_name_prefix="stdout")

    @classmethod
    def from_url(cls, url: str) -> Self:
        """
        Open `stdout:`.

        Raises:
            ValueError: the URL has a path or options.

        """
        if any(urlsplit(url)[1:]):
            raise ValueError(f"sink URL: {url!r} has more than `stdout:`, which has no options")
        return cls()

    async def emit(self, event: ExecutorEvent) -> None:
        """Print *event*."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Print *events*; raises as `EventSink`."""
        if self._closed:
            raise RuntimeError("StdoutSink is closed")
        lines, reasons = encode_lines(events)
        if lines:
            await asyncio.get_running_loop().run_in_executor(self._printer, self._print, lines)
        if reasons:
            raise EventsRejected(reasons)

    async def aclose(self) -> None:
        """Finish accepted calls; the stream stays open."""
        self._closed = True
        await asyncio.to_thread(self._printer.shutdown)

    def _print(self, lines: dict[bytes, bytes]) -> None:
        try:
            self._write_out()
            new = {message: line for message, line in lines.items() if message not in self._seen}
            for message in new:
                self._seen.add(message)
            self._unprinted = b"".join(new.values())
            self._write_out()
        except OSError as exc:
            raise SinkUnavailable(f"stdout: {exc.strerror or exc}") from exc

    def _write_out(self) -> None:
        self._flush()
        while self._unprinted:
            written = self._stream.write(self._unprinted)
            if written is None:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            self._unprinted = self._unprinted[written:]
        self._stream.flush()


def _below_buffer(stream: BinaryIO) -> BinaryIO:
    raw: BinaryIO = getattr(stream, "raw", stream)
    return raw
