"""A sink that writes events to this pod's own disk first, and forwards them from there to another sink."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import unquote, urlsplit

from msgspec import structs

from noetl_events.envelope import encode
from noetl_events.ids import process_ids
from noetl_events.in_flight import InFlight
from noetl_events.json_values import MalformedEvent
from noetl_events.retry import Backoff
from noetl_events.sink import EventsRejected, SinkUnavailable, open_sink, read_options
from noetl_events.sinks.spool.forwarder import Forwarder
from noetl_events.sinks.spool.journal import SEGMENT_BYTES, Journal, pack
from noetl_events.sinks.spool.writer import JournalWriter

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Sequence

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.sink import EventSink

_NUMBERS: Final[dict[str, type[int | float]]] = {"max_bytes": int, "replay_window": float}
_MIN_BYTES: Final = 64 * 1024


class SpoolSink:
    """
    Keep each event on disk until *inner* has stored it, and for the replay window after that.

    `emit` returns when the event is synced to this disk, whether *inner* is available or not.  A task of the sink
    forwards the events in order, each at least once and with the id it was emitted with, so a destination that stores
    an `event_id` once gets it once.  An event without an id is given one.  The first emit opens the folder, and
    continues with the events that an earlier process left there.

    Events that *inner* has acknowledged are kept for *replay_window* seconds.  If its stream is created again, or lost
    its end (a server that lost power before it synced), they are forwarded again.  This needs a sink that can be
    checked for losses (`NatsSink`); for any other sink, acknowledged events are deleted.

    Events that *inner* rejects are appended to `rejected.jsonl` in the folder, with the reason.

    Args:
        inner: sink for the events.
        path: folder of the spool, created if missing; its parent folder must exist.
        max_bytes: most bytes on disk; at that size `emit` raises `SpoolFull`.  Acknowledged events are deleted first.
        replay_window: seconds for which acknowledged events are kept.
        patience: seconds for which `aclose` waits for *inner* to accept the rest; what remains is forwarded by the next
            process that opens the folder.
        owns_inner: True to close *inner* with this sink.
        backoff: waits between attempts to forward.
        clock: function that returns seconds since the epoch.

    Raises:
        ValueError: *max_bytes* is too small.

    """

    def __init__(
        self,
        inner: EventSink,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 2**30,
        replay_window: float = 300.0,
        patience: float = 5.0,
        owns_inner: bool = False,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if max_bytes < _MIN_BYTES:
            raise ValueError(f"max_bytes: {max_bytes} is less than {_MIN_BYTES}")
        self._inner = inner
        self._path = Path(path)
        self._max_bytes = max_bytes
        self._replay_window = replay_window
        self._patience = patience
        self._owns_inner = owns_inner
        self._new_id = process_ids()
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._opening: asyncio.Task[_Folder] | None = None
        self._in_flight = InFlight()
        self._closed = False
        self._closing = asyncio.Lock()

    @classmethod
    def from_url(cls, url: str) -> Self:
        """
        Open `spool:///var/spool/noetl?to=nats://127.0.0.1:4222`; *to* is the URL of any sink, percent-encoded.

        Options: `to`, `max_bytes`, `replay_window` in seconds.

        Raises:
            ValueError: the URL lacks the folder or the sink, or has an unknown option.

        """
        parts = urlsplit(url, allow_fragments=False)
        options = read_options("spool", parts.query, ("to", *_NUMBERS))
        to, numbers = options.pop("to", ""), _read_numbers(options)
        if parts.netloc or not parts.path or not to:
            raise ValueError("sink URL: write spool:///folder?to=URL, the folder to spool in and the sink behind it")
        return cls(open_sink(to), unquote(parts.path), owns_inner=True, **numbers)

    async def emit(self, event: ExecutorEvent) -> None:
        """Spool *event*."""
        await self.emit_batch((event,))

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Spool *events*; raises as `EventSink`, and `SpoolFull`."""
        if self._closed:
            raise RuntimeError("SpoolSink is closed")
        records, malformed = self._encode(events)
        with self._in_flight:
            folder = await self._open()
            folder.require_health()
            if records:
                await folder.writer.write(b"".join(records))
        if malformed:
            raise EventsRejected(malformed)

    async def drained(self) -> None:
        """
        Return when *inner* has acknowledged all events spooled so far.

        Raises:
            SinkUnavailable: the folder cannot be opened, or was closed before *inner* had all events.

        """
        await (await self._open()).drained()

    async def aclose(self) -> None:
        """Finish accepted calls, forward what *inner* accepts within *patience*, and release the folder."""
        self._closed = True
        await self._in_flight.wait_for_none()
        async with self._closing:
            await self._release()

    async def _release(self) -> None:
        try:
            if self._opening is not None and (folder := await _opened(self._opening)):
                await folder.close(self._patience)
        finally:
            self._opening = None
            self._thread.shutdown()
            if self._owns_inner:
                await self._inner.aclose()

    def _encode(self, events: Sequence[ExecutorEvent]) -> tuple[list[bytes], dict[int, str]]:
        records: list[bytes] = []
        malformed: dict[int, str] = {}
        for index, event in enumerate(events):
            if event.event_id is None:
                event = structs.replace(event, event_id=self._new_id())  # noqa: PLW2901  (the same event, with its id)
            try:
                records.append(pack(encode(event)))
            except MalformedEvent as exc:
                malformed[index] = str(exc)
        return records, malformed

    async def _open(self) -> _Folder:
        if self._opening is None or (self._opening.done() and self._opening.exception()):
            self._opening = asyncio.create_task(self._open_folder())
        # Several calls wait for the task, so a cancelled call must not cancel it.
        return await asyncio.shield(self._opening)

    async def _open_folder(self) -> _Folder:
        journal, forwarder = await self._in_thread(self._open_journal)
        return _Folder(journal, forwarder, self._in_thread)

    def _open_journal(self) -> tuple[Journal, Forwarder]:
        segment_bytes = min(SEGMENT_BYTES, self._max_bytes // 4)
        journal = Journal(self._path, max_bytes=self._max_bytes, segment_bytes=segment_bytes)
        return journal, Forwarder(
            journal,
            self._inner,
            self._path,
            replay_window=self._replay_window,
            backoff=self._backoff,
            in_thread=self._in_thread,
            clock=self._clock,
        )

    async def _in_thread(self, call: Callable[..., Any], *args: Any) -> Any:
        # One thread keeps writing, reading and deleting in order, and a cancelled call ends before the next begins.
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)


class _Folder:
    """The open folder: its journal, the writer, and the task that forwards."""

    def __init__(self, journal: Journal, forwarder: Forwarder, in_thread: Callable[..., Awaitable[Any]]) -> None:
        self.journal = journal
        self.writer = JournalWriter(journal, forwarder, in_thread)
        self._forwarder = forwarder
        self._in_thread = in_thread
        self._forwarding = asyncio.create_task(forwarder.run())

    async def drained(self) -> None:
        """Return when all events are forwarded."""
        caught_up = asyncio.ensure_future(self._forwarder.caught_up())
        try:
            await asyncio.wait([caught_up, self._forwarding], return_when=asyncio.FIRST_COMPLETED)
        finally:
            caught_up.cancel()
        self.require_health()

    def require_health(self) -> None:
        """Raise the error that ended the forwarding: a bug of the inner sink, or the close of the folder."""
        if self._forwarding.cancelled():
            raise SinkUnavailable("spool: closed; the next process that opens the folder forwards the remaining events")
        if self._forwarding.done():
            self._forwarding.result()

    async def close(self, seconds: float) -> None:
        """Finish writing, forward for at most *seconds* more, and release the folder."""
        await self.writer.finish()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.drained()
        finally:
            self._forwarding.cancel()
            await asyncio.wait([self._forwarding])
            await self._in_thread(self.journal.close)


async def _opened(opening: asyncio.Task[_Folder]) -> _Folder | None:
    await asyncio.wait([opening])
    return None if opening.exception() else opening.result()


def _read_numbers(options: dict[str, str]) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for name, text in options.items():
        try:
            numbers[name] = _NUMBERS[name](text)
        except ValueError:
            raise ValueError(f"sink URL: {name}={text} is not a number") from None
    return numbers
