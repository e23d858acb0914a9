"""
A simulated run of projectors: a consumer, a table, dead letters, processes that die, and faults between them.

Safe:  each acknowledged event is in every table or dead-lettered; no event is dead-lettered without need; an exclusive
       consumer, and a projector without crash and disconnection, keep the order of the stream, and the latter gets no
       event twice.
Live:  after the last fault every message is acknowledged.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any, Final

from consumers.dead_letters import store
from consumers.projector import crash_records, quarantine
from noetl_events import encode
from noetl_events.jetstream.consume import ownership, position, puller
from noetl_events.jetstream.declarations import ConsumerDeclaration
from noetl_events.jetstream.errors import ConsumerDrift
from noetl_events.jetstream.message import unix_nanoseconds
from noetl_events.testing import make_event
from tests.simulation.consumer import Consumer, place_of
from tests.simulation.consumer_api import ConsumerApi
from tests.simulation.destination import ALIKE, FATAL, REJECTED, Keeping, SinkBug, Table
from tests.simulation.network import Server
from tests.simulation.process import Process
from tests.simulation.projector_faults import FAULTS_END, SHORT_EDIT, ProjectorFaults
from tests.simulation.replay import Timeline, replay
from tests.simulation.violation import Violation

PATIENCE: Final = 900.0
GOOD, MALFORMED = "good", "malformed"


class ProjectorRun:
    """
    A run of projectors.

    Args:
        seed: seed of all random choices.
        faults_at_once: number of faults that may overlap.
        ids_collide: true to give some events the id of the one before them.
        sinks_raise: true to let sinks raise errors outside of their contract for a while.

    """

    def __init__(self, seed: int, *, faults_at_once: int, ids_collide: bool = False, sinks_raise: bool = False) -> None:
        self.draw = draw = Random(seed)
        self.faults_at_once = faults_at_once
        self.sinks_raise = sinks_raise
        self.timeline = Timeline()
        self.note = self.timeline.note
        self.server = Server(draw)
        self.tables = [Table(draw) for _ in range(draw.choice([1, 1, 1, 2]))]
        self.keeping = Keeping(draw)
        self.mode = draw.choice(["single", "dying", "shared", "standby", "standby"])
        self.timeline.append(self.mode)
        self.kinds = self._draw_kinds()
        self.colliding = self._draw_colliding() if ids_collide else set()
        bodies = [self._body(place) for place in range(1, len(self.kinds) + 1)]
        declared = ConsumerDeclaration(
            name="p",
            stream="s",
            ack_wait=draw.choice([2.0, 10.0]),
            max_ack_pending=draw.choice([10, 100]),
            exclusive=self.mode == "standby",
            pin_ttl=4.0,
        )
        self.consumer = Consumer(self.server, declared, bodies, self._on_ack)
        self.api = ConsumerApi(self.consumer, draw)
        self.processes: dict[int, Process] = {}
        self.kills: list[float] = []
        """The time of each kill."""
        self.short_edits: list[tuple[float, set[int]]] = []
        """The end of each edit that was put back within ten seconds, and the messages that it left out."""
        self.blamed: dict[int, int] = {}
        self.is_over = False
        self.is_cut = False
        self._lives = 0

    def _draw_kinds(self) -> list[str]:
        draw = self.draw
        bad = draw.choice([0.0, 0.0, 0.1])
        fatal = draw.choice([0.0, 0.0, 0.04]) if self.mode != "single" else 0.0
        weights = [1 - bad - fatal, bad / 2, bad / 2, fatal]
        # A storm lasts as long as its faults.
        most = 60 if self.faults_at_once == 1 else 200
        return draw.choices([GOOD, MALFORMED, REJECTED, FATAL], weights, k=draw.randint(1, most))

    def _draw_colliding(self) -> set[int]:
        """Return places of sound events that have the id of the sound event before them."""
        places = [
            place
            for place in range(2, len(self.kinds) + 1)
            if place % 5 > 1 and self.kinds[place - 2] == self.kinds[place - 1] == GOOD
        ]
        return {place for place in places if self.draw.random() < 0.3}

    def _body(self, place: int) -> bytes:
        """Return the event at *place*: every fifth has no id of its own."""
        kind = self.kinds[place - 1]
        event_id = place - (place in self.colliding) if place % 5 else None
        return b"{" if kind == MALFORMED else encode(make_event(event_id, event_type=kind, step=str(place)))

    async def run(self) -> None:
        """Run to the end, and check the result."""
        beside = [
            asyncio.create_task(each) for each in (self.consumer.run(), ProjectorFaults(self).run(), self._publish())
        ]
        replicas = 1 if self.mode in ("single", "dying") else self.draw.randint(2, 3)
        lives = [asyncio.create_task(self._live(slot)) for slot in range(replicas)]
        try:
            async with asyncio.timeout(PATIENCE):
                await self._until_done(lives)
        except TimeoutError:
            left = self.consumer.left
            raise Violation(f"not acknowledged {PATIENCE - FAULTS_END:g} s after the last fault: {left}") from None
        finally:
            for task in (*beside, *lives, *(process.task for process in self.processes.values())):
                task.cancel()
                with suppress(asyncio.CancelledError, ConsumerDrift, SinkBug):
                    await task
        self.require_end()

    async def _until_done(self, lives: list[asyncio.Task[None]]) -> None:
        while not (self.is_over and self.escaped.issuperset(self.consumer.left)):
            await asyncio.sleep(0.5)
            for life in lives:
                if life.done():
                    life.result()

    async def _publish(self) -> None:
        while self.consumer.available < len(self.kinds):
            if self.consumer.has_stream:
                self.consumer.available += self.draw.randint(1, 20)
                self.consumer.available = min(self.consumer.available, len(self.kinds))
                self.consumer.pump()
            await asyncio.sleep(self.draw.expovariate(1.0) * self.draw.choice([0.0, 0.2, 5.0]))

    async def _live(self, slot: int) -> None:
        """Restart the process whenever it dies."""
        while True:
            await asyncio.sleep(self.draw.expovariate(1.0))
            self._lives += 1
            process = self.processes[slot] = self._start(f"p{slot}x{self._lives}y")
            self.note(f"start {slot}")
            await asyncio.wait([process.task])
            if not process.task.cancelled():
                # A consumer that must not be read ends a projector that starts, and so does a sink that is broken.
                with suppress(ConsumerDrift):
                    self._require_end_of(process)
                if process.projector.in_flight and not self.is_cut:
                    raise Violation(f"stopped with {process.projector.in_flight} messages in hand")

    def _require_end_of(self, process: Process) -> None:
        try:
            process.task.result()
        except SinkBug:
            if not process.connection.is_connected:
                # The process could not restore its crash record, so its end looks like a death.
                self.blame(process)

    def _start(self, name: str) -> Process:
        process = Process(
            name,
            self.server,
            self.consumer.declared,
            self.tables,
            self.draw,
            self.kill_soon,
            self.api.end_of_stream,
        )
        if self.faults_at_once > 1:
            process.watch(self.api.end_of_stream, self.api.show)
        return process

    def kill_soon(self, process: Process) -> None:
        """Kill *process* when it waits next."""
        asyncio.get_running_loop().call_soon(self.kill, process)

    def kill(self, process: Process) -> None:
        """Kill *process*: its later steps have no effect."""
        if process.connection.is_dead:
            return
        self.note("kill")
        self.kills.append(asyncio.get_running_loop().time())
        self.blame(process)
        process.connection.die()
        process.task.cancel()

    def blame(self, process: Process) -> None:
        """Record the suspect of a crash: a message that is tested alone; a cut connection looks like a crash."""
        if process.has_given_back(self.keeping):
            return
        for payload in self.keeping.notes.values():
            note = crash_records._decode(payload) if payload else None
            if note is not None and note.stored_ns in process.stored_ns:
                place = place_of(note.stored_ns)
                self.blamed[place] = self.blamed.get(place, 0) + 1

    def _on_ack(self, place: int) -> None:
        is_stored = all(place in table.stored for table in self.tables)
        if not (is_stored or place in self.buried()):
            raise Violation(f"acknowledged, neither stored nor buried: {place} ({self.kinds[place - 1]})")

    @property
    def escaped(self) -> set[int]:
        """
        The messages left out by an edit that was put back within ten seconds while processes were killed.

        Redeliveries to other processes then hide the gap in the numbers of the deliveries.  The documentation of
        delivery says so, and that `verify` finds these messages.
        """
        return {
            place
            for ended, skipped in self.short_edits
            if any(abs(kill - ended) < SHORT_EDIT + self.consumer.declared.ack_wait for kill in self.kills)
            for place in skipped - self.consumer.acked
        }

    def buried(self) -> dict[int, str]:
        """Return the kind of each dead letter, by its place."""
        heads = self.keeping.letters.values()
        return {place_of(unix_nanoseconds(head["Noetl-Time"])): head["Noetl-Kind"] for head in heads}

    def require_end(self) -> None:
        """Fail unless every event is in its place."""
        buried = self.buried()
        if len(buried) < len(self.keeping.letters):
            raise Violation(f"buried twice: {sorted(self.keeping.letters)}")
        wrong = {place: kind for place, kind in buried.items() if not self._is_due(place, kind)}
        if wrong:
            raise Violation(f"buried without need: {wrong}")
        for table in self.tables:
            self._require_rows(table, buried)
        if self.mode == "single" and not self.is_cut:
            self._require_one_delivery()

    def _is_due(self, place: int, kind: str) -> bool:
        is_blamed = kind == "fatal" and self.blamed.get(place, 0) > 1
        is_refused = kind == "rejected" and any(place in table.refused for table in self.tables)
        is_conflict = kind == "conflict" and bool({place, place + 1} & self.colliding)
        return kind == self.kinds[place - 1] or is_blamed or is_refused or is_conflict

    def _require_rows(self, table: Table, buried: dict[int, str]) -> None:
        places = range(1, len(self.kinds) + 1)
        excused = buried.keys() | self.consumer.gone | self.escaped
        wanted = {place for place in places if self.kinds[place - 1] == GOOD and place not in excused}
        if lost := wanted - table.stored.keys():
            raise Violation(f"lost: {sorted(lost)}")
        if invented := table.stored.keys() - set(places):
            raise Violation(f"invented: {sorted(invented)}")
        is_ordered = self.mode == "standby" or (self.mode == "single" and not self.is_cut)
        # A rejected and dead-lettered event may be delivered once more and stored then.  An event at which the sink
        # raised is stored after its successors, if one of these has to prove first that the sink works.
        rows = [place for place in table.stored if place not in table.refused | table.unproven]
        if is_ordered and rows != sorted(rows):
            raise Violation(f"out of order: {rows}")

    def _require_one_delivery(self) -> None:
        if again := [place for place, attempts in self.consumer.attempts.items() if attempts > 1]:
            raise Violation(f"delivered again without need: {again}")


def simulate_projector(
    seed: int, *, faults_at_once: int = 1, ids_collide: bool = False, sinks_raise: bool = False
) -> list[str]:
    """
    Run *seed* with *faults_at_once*, and return its timeline.

    If *ids_collide*, some events share an id; if *sinks_raise*, sinks raise errors outside of their contract.

    Raises:
        Violation: a promise was broken; the timeline is a note of the exception.

    """
    made = partial(ProjectorRun, faults_at_once=faults_at_once, ids_collide=ids_collide, sinks_raise=sinks_raise)
    run = replay(seed, made, _replaced)
    return [*run.timeline, *(f"stored {list(table.stored)}" for table in run.tables), f"buried {run.buried()}"]


def _replaced(run: ProjectorRun) -> list[tuple[Any, str, Any]]:
    return [
        (puller, "ensure_consumer", run.api.ensure),
        (puller, "require_server", run.api.require_server),
        (position, "can_reset", run.api.can_reset),
        (position, "passed_over", run.api.passed_over),
        (position, "reset_consumer", run.api.reset),
        (position, "show_consumer", run.api.show),
        (puller, "unpin_consumer", run.api.unpin),
        (ownership, "show_consumer", run.api.show),
        (store, "store", run.keeping.store),
        (crash_records, "store", run.keeping.store),
        (crash_records, "last_payload", run.keeping.last_payload),
        # Situations that need hundreds of messages arise with a few.
        (crash_records, "_BLOCK", 20),
        (crash_records, "_SPLIT", 4),
        (quarantine, "_BROKEN", ALIKE),
    ]
