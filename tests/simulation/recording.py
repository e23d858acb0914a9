"""
A simulated run of a record: an emitter writes a file or a folder of segments, on a disk that loses power.

Safe:  each acknowledged event is in the record as emitted, and none twice; after a reopening every line is an event; a
       segment ends at its age and at its size.
Live:  after the last fault the record accepts events.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
import time
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from noetl_events import SinkUnavailable, decode, encode
from noetl_events.json_values import MalformedEvent
from noetl_events.sinks import jsonl
from noetl_events.sinks.append_file import AppendFile
from noetl_events.sinks.jsonl import JsonlSink
from noetl_events.sinks.recording import CURRENT, RecordingSink, Rotation, next_segment, read_recording
from noetl_events.testing import make_event
from tests.simulation.disk import MEMORY, Death, Disk, noting
from tests.simulation.replay import Timeline, replay
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from noetl_events import ExecutorEvent

# A file system stores the time of a change in whole nanoseconds.
_TICK: Final = 1e-6


class RecordingRun:
    """
    A run of a record.

    Args:
        seed: seed of all random choices.
        folder: folder of the disk.

    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.draw = draw = Random(seed)
        self.timeline = Timeline()
        self.note = self.timeline.note
        # Only a reader can tell the possible contents of a never-written block apart.
        self.disk = Disk(draw, folder / "record", tears=("cut",))
        self.is_synced = draw.random() < 0.7
        self.is_plain = draw.random() < 0.3
        self.rotation = Rotation(size=draw.choice([None, 400, 3_000]), age=draw.choice([None, 5.0, 60.0]))
        self.is_compressed = draw.random() < 0.3
        self.faults = self._draw_faults()
        self.pace = draw.choice([0.1, 1.0, 10.0])
        self.emitted: dict[int, ExecutorEvent] = {}
        self.acknowledged: set[int] = set()
        self.files: list[BinaryIO] = []
        """The files that the process has locked."""

        self.segment = ""
        """The current segment, by its future name."""

        self.begun = 0.0
        """The time of the segment's start."""

        self.sink: JsonlSink

    def _draw_faults(self) -> list[Callable[[], None]]:
        faults = [self._kill, self._die_in_a_call, self._stop, self._fill_disk]
        if self.is_synced:
            faults += [self._cut_power, self._cut_power]
        return self.draw.sample(faults, self.draw.randint(0, len(faults)))

    @property
    def path(self) -> Path:
        """Return the file, or the folder."""
        return self.disk.folder / "record.jsonl" if self.is_plain else self.disk.folder

    async def run(self) -> None:
        """Run to the end, and check the result."""
        self.disk.create()
        self._start()
        for _ in range(self.draw.randint(3, 40)):
            await asyncio.sleep(self.draw.expovariate(1.0) * self.pace)
            if self.faults and self.draw.random() < 0.4:
                self.draw.choice(self.faults)()
            await self._insist([self._event() for _ in range(self.draw.randint(1, 6))])
        self.disk.heal()
        self._stop()
        if not await self._emit([last := self._event()]):
            raise Violation("takes nothing, though nothing goes wrong any more")
        self.acknowledged.add(last.event_id or 0)
        self._stop()
        self.require_end()

    def _start(self) -> None:
        self.note("start")
        if self.is_plain:
            self.sink = JsonlSink(self.path, fsync=self.is_synced)
        else:
            self.sink = RecordingSink(
                self.path, rotate=self.rotation, compress_finished=self.is_compressed, fsync=self.is_synced
            )

    def _event(self) -> ExecutorEvent:
        event_id = len(self.emitted) + 1
        event = make_event(event_id)
        # The event has its wire form, because events are decoded from there.
        self.emitted[event_id] = decode(encode(event))
        return event

    async def _insist(self, events: list[ExecutorEvent]) -> None:
        """Emit *events* until they are acknowledged, or give up."""
        while not await self._emit(events):
            await asyncio.sleep(self.draw.random())
            self.disk.refuses *= self.draw.choice([0.0, 1.0])
            if self.draw.random() < 0.1:
                self.note("given up")
                return
        self.acknowledged |= {event.event_id or 0 for event in events}

    async def _emit(self, events: list[ExecutorEvent]) -> bool:
        now = asyncio.get_running_loop().time()
        try:
            await self.sink.emit_batch(events)
        except SinkUnavailable as exc:
            # Only the text is kept, not the path: each run has its own folder.
            self.note(f"not {len(events)} from {events[0].event_id}: {exc.reason.rpartition(': ')[2]}")
            return False
        except Death:
            self.note("died in a call")
            self._end()
            return False
        else:
            self._require_end_of_segment(now)
            return True
        finally:
            self._note_segment(now)

    def _current(self) -> str:
        """Return the future name of the current segment; none while it has no event."""
        current = self.disk.folder / CURRENT
        return next_segment(self.disk.folder).name if current.exists() and b"\n" in current.read_bytes() else ""

    def _note_segment(self, now: float) -> None:
        if (current := self._current()) != self.segment:
            self.segment, self.begun = current, now

    def _require_end_of_segment(self, now: float) -> None:
        """Fail if a segment is larger or older than allowed."""
        current = self._current()
        if current and current == self.segment and now - self.begun >= (self.rotation.age or now) + _TICK:
            raise Violation(f"a segment begun at {self.begun:.4f} was written to at {now:.4f}")
        if current and (self.disk.folder / CURRENT).stat().st_size >= (self.rotation.size or 2**30):
            raise Violation("a segment is longer than it should be")

    def _kill(self) -> None:
        self.note("kill")
        self._end(is_cut=False)

    def _cut_power(self) -> None:
        self.note("power cut")
        self._end(is_cut=True)

    def _die_in_a_call(self) -> None:
        self.disk.calls_to_live = self.draw.randint(1, 8)

    def _stop(self) -> None:
        self.note("stop")
        self.sink._finish()
        self.files.clear()
        self._start()

    def _fill_disk(self) -> None:
        self.note("disk refuses")
        self.disk.refuses = self.draw.choice([0.1, 0.5, 1.0])

    def _end(self, *, is_cut: bool | None = None) -> None:
        """End the process, and perhaps the machine, and start it again."""
        for file in self.files:
            file.close()
        self.files.clear()
        if self.is_synced and (self.draw.random() < 0.5 if is_cut is None else is_cut):
            self.note("without power")
            self.disk.cut_power()
            self._lose_times()
        self._start()

    def _lose_times(self) -> None:
        """Make the current segment as old as the machine's new life."""
        self.segment, self.begun = self._current(), asyncio.get_running_loop().time()
        if not self.is_plain:
            (self.path / ".lock").touch()

    def require_end(self) -> None:
        """Fail unless every event is in its place."""
        try:
            recorded = list(read_recording(self.path)) if self.path.exists() else []
        except MalformedEvent as exc:
            raise Violation(f"cannot be read: {exc}") from None
        ids = [event.event_id or 0 for event in recorded]
        if lost := self.acknowledged - set(ids):
            raise Violation(f"lost: {sorted(lost)}")
        if ids != sorted(set(ids)):
            raise Violation(f"twice, or out of order: {ids}")
        if wrong := [event for event in recorded if event != self.emitted[event.event_id or 0]]:
            raise Violation(f"changed: {wrong}")


class _Inline(Executor):
    """Runs each call at once, because a cancelled caller does not interrupt a write."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def submit(self, call: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        """Return the outcome of *call*."""
        future: Future[Any] = Future()
        try:
            future.set_result(call(*args))
        except BaseException as exc:  # noqa: BLE001  (the caller gets the exception, also of a death)
            future.set_exception(exc)
        return future


def simulate_recording(seed: int) -> list[str]:
    """
    Run *seed*, and return its timeline.

    Raises:
        Violation: a promise was broken; the timeline is a note of the exception.

    """
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        run = replay(seed, partial(RecordingRun, folder=Path(folder)), _replaced)
    return [*run.timeline, f"acknowledged {len(run.acknowledged)}"]


def _replaced(run: RecordingRun) -> list[tuple[Any, str, Any]]:
    """Give the record the simulated disk and clock, and no thread."""
    now, set_times = asyncio.get_running_loop().time, os.utime
    return [
        (fcntl, "flock", noting(run.files)),
        (os, "fsync", run.disk.sync),
        (os, "utime", lambda path, _=None: set_times(path, (now(), now()))),
        (time, "time", now),
        (jsonl, "ThreadPoolExecutor", _Inline),
        (jsonl, "_fdatasync", run.disk.sync),
        (AppendFile, "_write", lambda file, data: run.disk.write(file._file, data)),
    ]
