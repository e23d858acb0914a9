"""The faults around simulated projectors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tests.simulation.nemesis import inflict
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.simulation.network import SimConnection
    from tests.simulation.process import Process
    from tests.simulation.projecting import ProjectorRun

FAULTS_END: Final = 60.0
"""The virtual second after which no fault starts."""

SHORT_EDIT: Final = 10.0
"""The seconds within which an edit may be put back before a projector checks the consumer."""

_RAISES_APART: Final = 10.0


class ProjectorFaults:
    """
    The faults of a run.

    Args:
        run: run that the faults hit.

    """

    def __init__(self, run: ProjectorRun) -> None:
        self._run = run
        self._edited_at = 0.0
        self._raises_again_at = 0.0
        self._skipped_before: set[int] = set()

    async def run(self) -> None:
        """Cause some faults, until the end of the fault phase."""
        faults: list[Callable[[], Awaitable[None]]] = [
            self._take_table_away,
            self._make_flaky,
            self._cut,
            self._lose_messages,
            self._restart_server,
            self._delete_consumer,
            self._stop,
            self._leave,
            self._break_table,
        ]
        faults += [] if self._run.mode == "single" else [self._kill_one, self._kill_one]
        # The order of a deleted stream, in a process that was paused, cannot be kept.
        faults += [] if self._run.mode == "standby" else [self._delete_stream]
        # A recorded seed keeps its meaning, so later faults occur only in storms.
        later = [self._leave_while_noting, self._edit_consumer, self._pause_consumer, self._refuse_requests]
        faults += later if self._run.faults_at_once > 1 else []
        faults += [self._make_raise, self._make_raise] if self._run.sinks_raise else []
        await inflict(self._run.draw, faults, paces=[0.3, 2.0, 8.0], until=FAULTS_END, at_once=self._run.faults_at_once)
        self._run.is_over = True
        self._run.note("over")

    async def _take_table_away(self) -> None:
        self._run.note("table away")
        table = self._run.draw.choice(self._run.tables)
        table.is_away = True
        await asyncio.sleep(self._a_while())
        table.is_away = False

    async def _break_table(self) -> None:
        self._run.note("table broken")
        table = self._run.draw.choice(self._run.tables)
        table.is_broken = True
        await asyncio.sleep(self._a_while())
        table.is_broken = False

    async def _make_raise(self) -> None:
        now, seconds = asyncio.get_running_loop().time(), self._a_while()
        # Errors that come and go within the tries of one event look like an error of the event.
        if now < self._raises_again_at:
            return
        self._raises_again_at = now + seconds + _RAISES_APART
        self._run.note("sink raises")
        # An error of the sink ends the process with messages in hand.
        self._run.is_cut = True
        table = self._run.draw.choice(self._run.tables)
        table.is_raising = True
        await asyncio.sleep(seconds)
        table.is_raising = False

    async def _make_flaky(self) -> None:
        self._run.note("flaky")
        for process in self._run.processes.values():
            if process.is_told:
                # The process may have no time to clear its crash record.
                self._run.blame(process)
        table = self._run.draw.choice(self._run.tables)
        table.is_flaky = self._run.keeping.is_flaky = True
        await asyncio.sleep(self._a_while())
        table.is_flaky = self._run.keeping.is_flaky = False

    async def _cut(self) -> None:
        self._run.note("cut")
        self._run.is_cut = True
        if self._run.processes:
            process = self._run.draw.choice(list(self._run.processes.values()))
            self._run.blame(process)
            await process.connection.cut(self._a_while(), for_good=self._run.draw.random() < 0.2)

    async def _lose_messages(self) -> None:
        self._run.note("loss")
        self._run.is_cut = True
        self._run.server.lossy = self._run.draw.randint(1, 6)

    async def _restart_server(self) -> None:
        self._run.note("restart")
        self._run.is_cut = True
        self._run.server.is_up = False
        self._run.consumer.restart("Server Shutdown")
        for process in self._run.processes.values():
            self._run.blame(process)
        cuts = [asyncio.create_task(each.connection.cut(0.0)) for each in self._run.processes.values()]
        await asyncio.sleep(self._a_while())
        self._run.server.is_up = True
        await asyncio.gather(*cuts)

    async def _delete_consumer(self) -> None:
        self._run.note("delete consumer")
        self._run.is_cut = True
        self._run.consumer.delete()

    async def _edit_consumer(self) -> None:
        self._run.note("edit consumer")
        self._run.is_cut = True
        # A consumer deleted meanwhile is created again as it was, with other edits.
        began = asyncio.get_running_loop().time()
        if not self._run.consumer.edits:
            self._edited_at, self._skipped_before = began, set(self._run.consumer.skipped)
        edits = self._run.consumer.edits = {"filter_subject": "noetl.events.some"}
        await asyncio.sleep(self._a_while())
        if self._run.consumer.edits is edits:
            self._require_not_reading(began)
            ended = asyncio.get_running_loop().time()
            if ended - self._edited_at < SHORT_EDIT:
                self._run.short_edits.append((ended, self._run.consumer.skipped - self._skipped_before))
            self._run.note("consumer put back")
            self._run.consumer.edits = {}
            self._run.consumer.pump()

    async def _pause_consumer(self) -> None:
        self._run.note("pause consumer")
        self._run.consumer.is_paused = True
        await asyncio.sleep(self._a_while())
        self._run.consumer.is_paused = False
        self._run.consumer.pump()

    async def _refuse_requests(self) -> None:
        self._run.note("refuse requests")
        self._run.is_cut = True
        consumer, before = self._run.consumer, self._run.consumer.refused
        consumer.refusal = "409 Exceeded MaxRequestBatch of 1"
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(self._a_while())
        consumer.refusal = ""
        # The waits of a back-off that begins with a tenth of a second, in each process there was meanwhile.
        most = 40 + 20 * len(self._run.processes) * (asyncio.get_running_loop().time() - began)
        if consumer.refused - before > most:
            raise Violation(f"{consumer.refused - before} requests were refused, one after the other")

    def _require_not_reading(self, since: float) -> None:
        """Fail if a projector reads a consumer that was edited before *since* and checked later."""
        for process in self._run.processes.values():
            # A start with a consumer takes a second, during which the consumer may be edited.
            is_late = process.looked_at > since + 1.5 and not process.connection.is_dead
            if is_late and process.projector.puller.is_reading:
                raise Violation("a consumer that was edited is read on")

    async def _stop(self) -> None:
        self._run.note("stop")
        if self._run.processes:
            await self._run.draw.choice(list(self._run.processes.values())).projector.stop()

    async def _delete_stream(self) -> None:
        self._run.note("delete stream")
        self._run.is_cut = True
        self._run.consumer.lose_stream()
        # An edit by another projector within less time cannot be told from the process's own, so nothing is promised.
        await asyncio.sleep(self._run.consumer.declared.ack_wait / 3 + 1.0)
        self._run.consumer.have_stream()

    async def _leave(self) -> None:
        if staying := [process for process in self._run.processes.values() if not process.is_told]:
            self._tell_to_leave(self._run.draw.choice(staying))

    async def _leave_while_noting(self) -> None:
        self._run.keeping.on_note = self._leave_by

    def _leave_by(self, connection: SimConnection) -> None:
        for process in self._run.processes.values():
            if process.connection is connection and not process.is_told:
                self._tell_to_leave(process)

    def _tell_to_leave(self, process: Process) -> None:
        self._run.note("leave")
        self._run.is_cut = True
        if not process.connection.is_connected or self._run.keeping.is_flaky:
            self._run.blame(process)
        process.leave()

    async def _kill_one(self) -> None:
        if self._run.processes:
            self._run.kill(self._run.draw.choice(list(self._run.processes.values())))

    def _a_while(self) -> float:
        return self._run.draw.expovariate(1.0) * self._run.draw.choice([0.05, 1.0, 15.0])
