"""
A simulated run of a spool: emitters, processes that die, a disk that loses power, and a stream that loses messages.

Safe:  each acknowledged event is in the stream or in `rejected.jsonl` as emitted, except for those behind a damaged
       record, which are kept aside; no event is invented; an emitter's events keep their order.
Live:  after the last fault every acknowledged event is forwarded.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from noetl_events import SinkUnavailable, decode, encode
from noetl_events.sinks.append_file import AppendFile
from noetl_events.sinks.spool import forwarder, sink
from noetl_events.sinks.spool.journal import Journal
from noetl_events.testing import make_event
from tests.simulation.disk import MEMORY, Disk, noting
from tests.simulation.replay import Timeline, replay
from tests.simulation.spool_faults import FAULTS_END, SpoolFaults
from tests.simulation.spool_process import SpoolProcess
from tests.simulation.spool_verdict import SpoolVerdict
from tests.simulation.violation import Violation
from tests.simulation.watched_stream import REJECTED, WatchedStream

if TYPE_CHECKING:
    from typing import BinaryIO

    from noetl_events import ExecutorEvent

PATIENCE: Final = 400.0
# Situations that need thousands of events arise with a few.
SMALL: Final = [
    (sink, "_MIN_BYTES", 1),
    (forwarder, "_BATCH", 8),
    (forwarder, "_SMALLEST_PART", 2),
    (forwarder, "_CHECK_INTERVAL", 1.0),
]


class SpoolRun:
    """
    A run of a spool.

    Args:
        seed: seed of all random choices.
        folder: folder of the disk.
        faults_at_once: number of faults that may overlap.

    """

    def __init__(self, seed: int, folder: Path, faults_at_once: int) -> None:
        self.draw = draw = Random(seed)
        self.faults_at_once = faults_at_once
        self.timeline = Timeline()
        self.note = self.timeline.note
        self.disk = Disk(draw, folder / "spool")
        self.window = draw.choice([10.0, 60.0, 600.0])
        self.stream = WatchedStream(draw, self.window)
        self.kind = draw.choice(["plain", "losing", "losing", "rotting", "small"])
        self.timeline.append(self.kind)
        self.is_losing = self.kind == "losing"
        self.is_rotting = self.kind == "rotting"
        self.is_watched = self.is_losing or draw.random() < 0.7
        # A full spool deletes events that a stream may still lose.
        self.max_bytes = draw.choice([2_500, 6_000]) if self.kind == "small" else 2**30
        self.segment_bytes = draw.choice([300, 2_000, 10_000])
        self.rejects = 0.05 if faults_at_once == 1 else 0.25
        """The probability that an event is one that the stream always rejects."""

        self.is_over = False
        self.emitted: dict[int, ExecutorEvent] = {}
        self.acknowledged: set[int] = set()
        self.flipped: set[int] = set()
        self.verdict = SpoolVerdict(self)
        self.files: list[BinaryIO] = []
        """The files that the process has opened for appending."""

        self.process: SpoolProcess
        self.lanes: dict[int, list[int]] = {}

    async def run(self) -> None:
        """Run to the end, and check the result."""
        self.process = SpoolProcess(self)
        beside = [asyncio.create_task(each) for each in (SpoolFaults(self).run(), self._live())]
        emitters = [asyncio.create_task(self._emit_lane(lane)) for lane in range(self.draw.randint(1, 4))]
        try:
            async with asyncio.timeout(PATIENCE):
                await self._until_done(beside, emitters)
        except TimeoutError:
            left = sorted(self.verdict.missing()) or "some emitters"
            raise Violation(f"not through {PATIENCE - FAULTS_END:g} s after the last fault: {left}") from None
        finally:
            self.process.die()
            for task in (*beside, *emitters):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        self.verdict.require_end()

    async def _until_done(self, beside: list[asyncio.Task[None]], emitters: list[asyncio.Task[None]]) -> None:
        await asyncio.gather(*emitters)
        await beside[0]
        while not await self._drain() or self.verdict.missing():  # noqa: ASYNC110  (no event reports an arrival)
            await asyncio.sleep(1.0)
        await self.stop()

    async def _drain(self) -> bool:
        """Wait until every event is forwarded, and return true if that could be determined."""
        process, before = self.process, set(self.acknowledged)
        task = process.begin(process.sink.drained())
        await asyncio.wait([task])
        if task.cancelled() or not isinstance(task.exception(), SinkUnavailable):
            self._require_sound(task, process)
        if task.cancelled() or task.exception() is not None:
            return False
        if not self.is_losing and (missing := self.verdict.missing() & before):
            raise Violation(f"said to be through, and not: {sorted(missing)}")
        return True

    async def _live(self) -> None:
        """Restart the process whenever it ends."""
        while True:
            if self.draw.random() < 0.5:
                self.process.begin(self._open_folder())
            await self.process.ended.wait()
            await asyncio.sleep(self.draw.expovariate(1.0))
            self.note("start")
            self.process = SpoolProcess(self)

    async def _open_folder(self) -> None:
        """Open the folder without an emit."""
        with suppress(SinkUnavailable):
            await self.process.sink.drained()

    async def stop(self) -> None:
        """Close the spool; another process is started then."""
        process = self.process
        if process.ended.is_set():
            return
        self.note("stop")
        task = process.begin(process.sink.aclose())
        await asyncio.wait([task])
        self._require_sound(task, process)
        process.ended.set()

    async def _emit_lane(self, lane: int) -> None:
        """Emit batches one after another."""
        draw = self.draw
        for _ in range(draw.randint(1, 8)):
            await asyncio.sleep(draw.expovariate(1.0) * draw.choice([0.0, 0.5, 10.0]))
            await self._emit_until_acknowledged([self._event(lane) for _ in range(draw.randint(1, 6))])

    def _event(self, lane: int) -> ExecutorEvent:
        event_id = len(self.emitted) + 1
        kind = REJECTED if self.draw.random() < self.rejects else "good"
        self.lanes.setdefault(lane, []).append(event_id)
        event = make_event(event_id, execution_id=lane, event_type=kind)
        # The event has its wire form, because events are decoded from there.
        self.emitted[event_id] = decode(encode(event))
        return event

    async def _emit_until_acknowledged(self, events: list[ExecutorEvent]) -> None:
        """Emit *events* until they are acknowledged, or give up."""
        while not await self._emit(events):
            self.note(f"again {len(events)} from {events[0].event_id}")
            await asyncio.sleep(self.draw.random())
            if not self.is_over and self.draw.random() < 0.1:
                self.note("given up")
                return
        self.acknowledged |= {event.event_id or 0 for event in events}

    async def _emit(self, events: list[ExecutorEvent]) -> bool:
        process = self.process
        if process.ended.is_set() or process.sink._closed:
            return False
        task = process.begin(process.sink.emit_batch(events))
        patience = self.draw.choice([0.005, 1.0]) if not self.is_over and self.draw.random() < 0.1 else None
        await asyncio.wait([task], timeout=patience)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        elif task.cancelled() or not isinstance(task.exception(), SinkUnavailable):
            self._require_sound(task, process)
        return not task.cancelled() and task.exception() is None

    def _require_sound(self, task: asyncio.Task[None], process: SpoolProcess) -> None:
        """Fail if *task* raised outside the contract, or was cancelled while its *process* was running."""
        if process.is_dead:
            return
        if task.cancelled():
            raise Violation("cancelled by nobody")
        if task.exception() is not None:
            raise Violation(f"raised {task.exception()!r}")

    def on_death(self, process: SpoolProcess) -> None:
        """Handle the end of *process* during a call; the power may be cut as well."""
        is_cut = self.draw.random() < 0.7
        self.note("power cut in a call" if is_cut else "killed in a call")
        process.die()
        if is_cut:
            self.disk.cut_power()


def simulate_spool(seed: int, *, faults_at_once: int = 1) -> list[str]:
    """
    Run *seed* with *faults_at_once*, and return its timeline.

    Raises:
        Violation: a promise was broken; the timeline is a note of the exception.

    """
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        run = replay(seed, partial(SpoolRun, folder=Path(folder), faults_at_once=faults_at_once), _replaced)
    return [*run.timeline, f"stored {list(run.stream.stored)}"]


def _replaced(run: SpoolRun) -> list[tuple[Any, str, Any]]:
    """Give the spool the simulated disk and small limits."""
    defaults = dict(Journal.__init__.__kwdefaults__ or {}, sync=run.disk.sync)
    return [
        *SMALL,
        (sink, "SEGMENT_BYTES", run.segment_bytes),
        (AppendFile, "_write", lambda file, data: run.disk.write(file._file, data)),
        # The spool locks the file it appends to, and no other file that closes itself.
        (fcntl, "flock", noting(run.files)),
        (os, "fsync", run.disk.sync),
        (Journal.__init__, "__kwdefaults__", defaults),
    ]
