"""The journal of a worker's attempts and acknowledgements: a file that outlives the worker's death by SIGKILL."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from noetl_events import ExecutorEvent


class Attempt(NamedTuple):
    """An event that a worker tried to store: its execution, the file that says so, and the monotonic second."""

    execution_id: int
    journal: str
    at: float


class Journal:
    """Lines appended to *path*, each in the kernel before the next step."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def attempt(self, events: Sequence[ExecutorEvent]) -> None:
        """Record that *events* are about to be emitted."""
        self._write(f"a {event.event_id} {event.execution_id} {time.monotonic():.3f}\n" for event in events)

    def acknowledge(self, events: Sequence[ExecutorEvent]) -> None:
        """Record that the emit of *events* returned."""
        self._write(f"k {event.event_id} {time.monotonic():.3f}\n" for event in events)

    def _write(self, lines: Iterable[str]) -> None:
        os.write(self._file, "".join(lines).encode())


class Story:
    """All journals of a campaign together, read as far as they go; each is one life of a worker."""

    def __init__(self) -> None:
        self.attempted: dict[int, Attempt] = {}
        self.acknowledged: dict[int, float] = {}
        self.went_back: list[int] = []
        """The ids that did not exceed the one before, in one life of a process."""

        self._last: dict[str, int] = {}
        self._offsets: dict[Path, int] = {}

    def read(self, folder: Path) -> None:
        """Read the new lines in *folder*; an incomplete last line is left for later."""
        for path in sorted(folder.glob("*.journal")):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                whole, _, _ = file.read().rpartition(b"\n")
            self._offsets[path] = self._offsets.get(path, 0) + (len(whole) + 1 if whole else 0)
            for line in whole.decode().splitlines():
                self._take(line.split(), path.name)

    def _take(self, words: list[str], journal: str) -> None:
        kind, event_id, *rest = words
        if kind == "a":
            self._require_above(int(event_id), journal)
            self.attempted[int(event_id)] = Attempt(int(rest[0]), journal, float(rest[1]))
        else:
            self.acknowledged[int(event_id)] = float(rest[0])

    def _require_above(self, event_id: int, journal: str) -> None:
        if event_id <= self._last.get(journal, -1):
            self.went_back.append(event_id)
        self._last[journal] = event_id
