"""A sink that keeps each event as a file of its own: `folder:///var/lib/noetl/events`."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urlsplit

from noetl_events import EventsRejected, MalformedEvent, SinkUnavailable, decode, encode
from noetl_events.conflicts import Likeness, compare
from noetl_events.sink import require_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events import ExecutorEvent


class FolderSink:
    """
    Write each event to `<execution_id>-<event_id>.json` in *folder*, which has to exist.

    Each file is written under another name and then renamed, so after any crash a final name has a complete event.  An
    existing file is left as it is; a later event with its name is rejected if it is a different event.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._closed = False
        # One thread writes batches one after the other, even if a cancelled caller emits its batch again.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="folder")

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Open `folder:///absolute/path`; raises ValueError for any other URL."""
        parts = urlsplit(url)
        if parts.netloc or parts.query or not parts.path:
            raise ValueError(f"sink URL: {url!r} is not such as folder:///var/lib/noetl/events")
        return cls(unquote(parts.path))

    async def emit(self, event: ExecutorEvent) -> None:
        """Write *event*."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Write *events*; see `EventSink` for what is raised."""
        if self._closed:
            raise RuntimeError("FolderSink is closed")
        reasons: dict[int, str] = {}
        bodies: dict[int, bytes] = {}
        require_ids(events)
        for place, event in enumerate(events):
            try:
                bodies[place] = encode(event)
            except MalformedEvent as exc:
                reasons[place] = str(exc)
        conflicts = await asyncio.get_running_loop().run_in_executor(self._writer, self._write, bodies)
        if reasons or conflicts:
            raise EventsRejected(reasons | conflicts, conflicts=conflicts)

    async def aclose(self) -> None:
        """Finish the accepted writes."""
        self._closed = True
        await asyncio.to_thread(self._writer.shutdown)

    def _write(self, bodies: dict[int, bytes]) -> dict[int, str]:
        conflicts: dict[int, str] = {}
        try:
            for place, body in bodies.items():
                event = decode(body)
                file = self._folder / f"{event.execution_id}-{event.event_id}.json"
                if not file.exists():
                    self._write_file(file.name, body)
                elif (found := compare(decode(file.read_bytes()), event)).likeness is Likeness.CONFLICT:
                    conflicts[place] = found.reason
            # A file name is durable only once its folder is synced, also for files that existed before.
            self._sync(self._folder)
        except OSError as exc:
            # A full disk or a missing volume is no fault of an event.
            raise SinkUnavailable(f"folder: {self._folder}: {exc.strerror or exc}") from exc
        return conflicts

    def _write_file(self, name: str, body: bytes) -> None:
        part = self._folder / f".{name}.part"
        part.write_bytes(body)
        self._sync(part)
        part.rename(self._folder / name)

    def _sync(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
