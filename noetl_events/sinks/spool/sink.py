"""Events on this pod's own disk first, and from there to another sink."""

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
from noetl_events.json_values import MalformedEvent
from noetl_events.retry import Backoff
from noetl_events.sink import EventsRejected, SinkUnavailable, open_sink, read_options
from noetl_events.sinks.spool.forwarder import Handover
from noetl_events.sinks.spool.journal import SEGMENT_BYTES, GroupCommit, Journal, SpoolFull, pack

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Sequence

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.sink import EventSink

_NUMBERS: Final[dict[str, type[int | float]]] = {"max_bytes": int, "replay_window": float}
_SMALLEST: Final = 64 * 1024


class SpoolSink:
    """
    Keep each event on disk until *inner* has it, and a while longer.

    `emit` returns when the event is synced to this disk, whether *inner* can be reached or not.  A task of the sink's
    own hands the events over in their order, each at least once, under the id it was emitted with: what *inner* keeps
    once by `event_id` arrives once.  An event without an id gets one.  The first emit opens the folder, and takes up
    what an earlier process left there.

    What *inner* has acknowledged stays for *replay_window* seconds.  If its stream is created again, or ends before
    what it had acknowledged (a server that lost power before it synced), that is handed over again.  Only a sink that
    can be watched so (`NatsSink`) makes this possible; for any other what was acknowledged is deleted.

    What *inner* rejects stands in `rejected.jsonl` in the folder, with the reason.

    Args:
        inner: where the events go.
        path: a folder of its own, created if missing; the one it is in must exist.
        max_bytes: on disk; past that `emit` raises `SpoolFull`.  What was acknowledged goes first.
        replay_window: seconds.
        patience: seconds `aclose` waits for *inner* to take the rest; what remains is handed over by the next one to
            open the folder.
        owns_inner: close *inner* with the sink.
        backoff: between two attempts to hand over.
        clock: seconds since the epoch.

    Raises:
        ValueError: *max_bytes* is too small to hold anything.

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
        if max_bytes < _SMALLEST:
            raise ValueError(f"max_bytes: {max_bytes} is less than {_SMALLEST}")
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
        self._calls = 0
        self._idle = asyncio.Event()
        self._closed = False
        self._closing = asyncio.Lock()

    @classmethod
    def from_url(cls, url: str) -> Self:
        """
        Open `spool:///var/spool/noetl?to=nats://127.0.0.1:4222`; *to* is any sink's URL, percent-encoded.

        Options: `to`, `max_bytes`, `replay_window` in seconds.

        Raises:
            ValueError: the URL names no folder or no sink, or has an option there is not.

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
        """Spool *events*; see `EventSink` for what is raised, and `SpoolFull`."""
        if self._closed:
            raise RuntimeError("SpoolSink is closed")
        self._calls += 1
        try:
            await self._spool(events)
        finally:
            self._calls -= 1
            self._idle.set()

    async def drained(self) -> None:
        """
        Return when *inner* has acknowledged everything spooled so far.

        Raises:
            SinkUnavailable: the folder cannot be opened, or was closed before *inner* had all of it.

        """
        await (await self._open()).drained()

    async def aclose(self) -> None:
        """Finish what was accepted, hand over what *inner* takes within *patience*, and release the folder."""
        self._closed = True
        while self._calls:
            self._idle.clear()
            await self._idle.wait()
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

    async def _spool(self, events: Sequence[ExecutorEvent]) -> None:
        records, malformed = self._encode(events)
        folder = await self._open()
        folder.require_health()
        if records:
            await folder.commits.write(b"".join(records))
        if malformed:
            raise EventsRejected(malformed)

    def _encode(self, events: Sequence[ExecutorEvent]) -> tuple[list[bytes], dict[int, str]]:
        records: list[bytes] = []
        malformed: dict[int, str] = {}
        for place, event in enumerate(events):
            if event.event_id is None:
                event = structs.replace(event, event_id=self._new_id())  # noqa: PLW2901  (the same event, with its id)
            try:
                records.append(pack(encode(event)))
            except MalformedEvent as exc:
                malformed[place] = str(exc)
        return records, malformed

    async def _open(self) -> _Folder:
        if self._opening is None or (self._opening.done() and self._opening.exception()):
            self._opening = asyncio.create_task(self._open_folder())
        # Others wait for it too: who is cancelled meanwhile leaves it to them.
        return await asyncio.shield(self._opening)

    async def _open_folder(self) -> _Folder:
        return _Folder(self._in_thread, *await self._in_thread(self._open_journal))

    def _open_journal(self) -> tuple[Journal, Handover]:
        segment_bytes = min(SEGMENT_BYTES, self._max_bytes // 4)
        journal = Journal(self._path, max_bytes=self._max_bytes, segment_bytes=segment_bytes)
        return journal, Handover(
            journal,
            self._inner,
            self._path,
            replay_window=self._replay_window,
            backoff=self._backoff,
            in_thread=self._in_thread,
            clock=self._clock,
        )

    async def _in_thread(self, call: Callable[..., Any], *args: Any) -> Any:
        # One thread: writing, reading and deleting follow each other, and a cancelled call still ends before the next.
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)


class _Folder:
    """The folder while it is open: who appends, and the task that hands over."""

    def __init__(self, in_thread: Callable[..., Awaitable[Any]], journal: Journal, handover: Handover) -> None:
        self.journal = journal
        self.commits = GroupCommit(self._append)
        self._handover = handover
        self._in_thread = in_thread
        self._handing_over = asyncio.create_task(handover.run())

    async def drained(self) -> None:
        """Return when everything is handed over."""
        caught_up = asyncio.ensure_future(self._handover.caught_up())
        try:
            await asyncio.wait([caught_up, self._handing_over], return_when=asyncio.FIRST_COMPLETED)
        finally:
            caught_up.cancel()
        self.require_health()

    def require_health(self) -> None:
        """Raise what ended the handing over: a bug of the sink behind it, or that the folder was closed."""
        if self._handing_over.cancelled():
            raise SinkUnavailable("spool: closed; what is left is handed over by the next one to open the folder")
        if self._handing_over.done():
            self._handing_over.result()

    async def close(self, patience: float) -> None:
        """Finish writing, hand over for *patience* seconds more, and release the folder."""
        await self.commits.finish()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self.drained()
        finally:
            self._handing_over.cancel()
            await asyncio.wait([self._handing_over])
            await self._in_thread(self.journal.close)

    async def _append(self, records: bytes) -> None:
        try:
            await self._in_thread(self.journal.append, records)
        except SpoolFull:
            # A new event counts for more than the replay of one that was acknowledged.
            await self._in_thread(self.journal.make_room, self._handover.position)
            await self._in_thread(self.journal.append, records)
        self._handover.notice()


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
