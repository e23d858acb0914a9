"""
A SQLite sink that fails at some events: a plug-in of another distribution, for projectors run as processes.

    trap:////folder/events.db?id=7&end=exit     the process ends (-9 with `kill`, an exception escapes with `bug`)
                                                 before a batch with event 7 is stored
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import parse_qs

from consumers.sinks.sqlite import SqliteSink, path_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from noetl_events import ExecutorEvent

_EXIT_CODE: Final = 99


class TrapSink(SqliteSink):
    """A SQLite sink that ends the process, as *end* says, at the first of *ids*."""

    def __init__(self, path: str, *, ids: frozenset[int], end: Callable[[], None]) -> None:
        super().__init__(path)
        self._ids = ids
        self._end = end

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Open `trap:///path?id=...&end=exit|kill|bug`."""
        place, _, arguments = url.partition("?")
        query = parse_qs(arguments)
        path = path_of(f"sqlite{place.removeprefix('trap')}")
        return cls(path, ids=frozenset(map(int, query["id"])), end=_ENDS[query["end"][0]])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """End the process, or store the batch."""
        if not self._ids.isdisjoint(event.event_id for event in events):
            self._end()
        await super().emit_batch(events)


def install(folder: Path) -> None:
    """Make *folder* a place on the module path that registers the scheme `trap`."""
    metadata = folder / "trap-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: trap\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[noetl_events.sinks]\ntrap = {__name__}:TrapSink.from_url\n")


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise() -> None:
    raise RuntimeError("a bug of the sink")


_ENDS: Final[dict[str, Callable[[], None]]] = {
    "exit": lambda: os._exit(_EXIT_CODE),
    "kill": _kill,
    "bug": _raise,
}
