"""
One simulated run of projectors: a consumer, a table, a graveyard, processes that die, and what may go wrong between.

Safe:  what is acknowledged is in the table or buried; nothing is buried that need not be; an exclusive consumer, and
       one projector that loses neither life nor connection, keep the order of the stream.
Live:  once nothing goes wrong any more, everything is acknowledged.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from functools import partial
from random import Random
from typing import Any, Final
from unittest.mock import patch

from consumers import suspects
from consumers.dead_letters import DeadLetters, burial
from consumers.projector import Projector
from consumers.suspects import Trials
from noetl_events import encode
from noetl_events.backoff import Backoff
from noetl_events.ids import derived_id
from noetl_events.jetstream import puller
from noetl_events.jetstream.declarations import ConsumerDeclaration
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.puller import Puller
from noetl_events.testing import make_event
from tests.simulation.clock import run_virtual
from tests.simulation.consumer import Consumer, stored_ns
from tests.simulation.destination import FATAL, REJECTED, Keeping, Table, TableSink
from tests.simulation.network import Server, SimConnection
from tests.simulation.projector_faults import FAULTS_END, ProjectorFaults
from tests.simulation.publishing import Violation

PATIENCE: Final = 900.0
GOOD, MALFORMED = "good", "malformed"


class Process:
    """
    One life of a projector.

    Args:
        run: it belongs to.
        name: of this life.

    """

    def __init__(self, run: ProjectorRun, name: str) -> None:
        self.connection = SimConnection(run.server, name)
        self.sink = TableSink(run.table, partial(run.kill_soon, self))
        draw = run.draw
        reader = Puller(self.connection, run.consumer.declared, max_messages=draw.choice([4, 16, 60]))  # type: ignore[arg-type]
        self.projector = Projector(
            reader,
            self.sink,
            DeadLetters(self.connection),  # type: ignore[arg-type]
            Trials(self.connection),  # type: ignore[arg-type]
            batch_size=draw.choice([1, 5, 12, 40]),
            backoff=Backoff(initial=0.1, maximum=2.0),
        )
        self.task = asyncio.create_task(self.projector.run())


class ProjectorRun:
    """
    One run.

    Args:
        seed: every chance in it.

    """

    def __init__(self, seed: int) -> None:
        self.draw = draw = Random(seed)
        self.timeline: list[str] = []
        self.server = Server(draw)
        self.table = Table(draw)
        self.keeping = Keeping(draw)
        self.mode = draw.choice(["single", "dying", "shared", "standby", "standby"])
        self.kinds = self._draw_kinds()
        self.ids = [self._id_at(sequence) for sequence in range(1, len(self.kinds) + 1)]
        bodies = [self._body(sequence) for sequence in range(1, len(self.kinds) + 1)]
        declared = ConsumerDeclaration(
            name="p",
            stream="s",
            ack_wait=draw.choice([2.0, 10.0]),
            max_ack_pending=draw.choice([10, 100]),
            exclusive=self.mode == "standby",
            pin_ttl=4.0,
        )
        self.consumer = Consumer(self.server, declared, bodies, self._on_ack)
        self.processes: dict[int, Process] = {}
        self.blamed: dict[int, int] = {}
        self.is_over = False
        self.is_cut = False
        self._lives = 0

    def _draw_kinds(self) -> list[str]:
        draw = self.draw
        bad = draw.choice([0.0, 0.0, 0.1])
        fatal = draw.choice([0.0, 0.0, 0.04]) if self.mode != "single" else 0.0
        weights = [1 - bad - fatal, bad / 2, bad / 2, fatal]
        return draw.choices([GOOD, MALFORMED, REJECTED, FATAL], weights, k=draw.randint(1, 60))

    def _id_at(self, sequence: int) -> int:
        own = derived_id(stored_ns(sequence) // 1_000_000, sequence)
        return own if sequence % 5 == 0 else sequence

    def _body(self, sequence: int) -> bytes:
        kind = self.kinds[sequence - 1]
        if kind == MALFORMED:
            return b"{"
        return encode(make_event(None if sequence % 5 == 0 else sequence, event_type=kind))

    async def run(self) -> None:
        """Run to the end, and look at what is there then."""
        beside = [
            asyncio.create_task(each) for each in (self.consumer.run(), ProjectorFaults(self).run(), self._publish())
        ]
        replicas = 1 if self.mode in ("single", "dying") else self.draw.randint(2, 3)
        lives = [asyncio.create_task(self._live(slot)) for slot in range(replicas)]
        try:
            async with asyncio.timeout(PATIENCE):
                await self._until_done(lives)
        except TimeoutError:
            left = sorted(set(range(1, len(self.kinds) + 1)) - self.consumer.acked)
            raise Violation(f"not acknowledged {PATIENCE - FAULTS_END:g} s after the last fault: {left}") from None
        finally:
            for task in (*beside, *lives, *(process.task for process in self.processes.values())):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        self.require_end()

    async def _until_done(self, lives: list[asyncio.Task[None]]) -> None:
        while not (self.is_over and self.consumer.is_done):
            await asyncio.sleep(0.5)
            for life in lives:
                if life.done():
                    life.result()

    async def _publish(self) -> None:
        while self.consumer.available < len(self.kinds):
            self.consumer.available += self.draw.randint(1, 20)
            self.consumer.available = min(self.consumer.available, len(self.kinds))
            self.consumer.pump()
            await asyncio.sleep(self.draw.expovariate(1.0) * self.draw.choice([0.0, 0.2, 5.0]))

    async def _live(self, slot: int) -> None:
        """Be started again whenever it dies."""
        while True:
            await asyncio.sleep(self.draw.expovariate(1.0))
            self._lives += 1
            process = self.processes[slot] = Process(self, f"p{slot}x{self._lives}y")
            self.note(f"start {slot}")
            try:
                await process.task
            except asyncio.CancelledError:
                if not process.connection.is_dead:
                    raise
            else:
                if process.projector.in_hand and not self.is_cut:
                    raise Violation(f"stopped with {process.projector.in_hand} messages in hand")

    def kill_soon(self, process: Process) -> None:
        """Kill *process* when it waits next."""
        asyncio.get_running_loop().call_soon(self.kill, process)

    def kill(self, process: Process) -> None:
        """Kill *process*: nothing it does from now on has any effect."""
        if process.connection.is_dead:
            return
        self.note("kill")
        self.blame(process)
        process.connection.die()
        process.task.cancel()

    def blame(self, process: Process) -> None:
        """Note whom a death looks like: a message alone on trial, whoever kills the process; a cut looks like one."""
        hand = {int(message.reply.split(".")[5]) for message in process.projector._in_hand}
        for payload in self.keeping.notes.values():
            note = suspects._read_note(payload) if payload else None
            if note is not None and note.first == note.last and note.first in hand:
                self.blamed[note.first] = self.blamed.get(note.first, 0) + 1

    def _on_ack(self, sequence: int) -> None:
        kind = self.kinds[sequence - 1]
        is_stored, is_buried = self.ids[sequence - 1] in self.table.stored, sequence in self.buried()
        if not (is_stored or is_buried):
            raise Violation(f"acknowledged, neither stored nor buried: {sequence} ({kind})")

    def buried(self) -> dict[int, str]:
        """Return the kind of each letter, by its sequence."""
        return {int(head["Noetl-Sequence"]): head["Noetl-Kind"] for head in self.keeping.letters.values()}

    def require_end(self) -> None:
        """Fail unless all is where it should be."""
        buried = self.buried()
        if len(buried) < len(self.keeping.letters):
            raise Violation(f"buried twice: {sorted(self.keeping.letters)}")
        wrong = {sequence: kind for sequence, kind in buried.items() if not self._is_due(sequence, kind)}
        if wrong:
            raise Violation(f"buried without need: {wrong}")
        good = {self.ids[index] for index, kind in enumerate(self.kinds) if kind == GOOD and index + 1 not in buried}
        if lost := good - self.table.stored.keys():
            raise Violation(f"lost: {sorted(lost)}")
        if invented := self.table.stored.keys() - set(self.ids):
            raise Violation(f"invented: {sorted(invented)}")
        if self.mode == "standby" or (self.mode == "single" and not self.is_cut):
            self._require_order()

    def _is_due(self, sequence: int, kind: str) -> bool:
        is_blamed = kind == "fatal" and self.blamed.get(sequence, 0) > 1
        return kind == self.kinds[sequence - 1] or is_blamed

    def _require_order(self) -> None:
        order = list(self.table.stored)
        wanted = [event_id for event_id in self.ids if event_id in self.table.stored]
        if order != wanted:
            raise Violation(f"out of order: {order}")

    def note(self, what: str) -> None:
        """Add *what* to the timeline."""
        self.timeline.append(f"{asyncio.get_running_loop().time():9.4f} {what}")

    # What the consumer API answers.

    async def ensure_consumer(self, connection: SimConnection, _declared: ConsumerDeclaration) -> Any:
        """Return the consumer, or fail as a request does."""
        await self._travel(connection)
        return self.consumer.info()

    async def reset_consumer(self, connection: SimConnection, _declared: ConsumerDeclaration) -> None:
        """Have it start again."""
        await self._travel(connection)
        self.consumer.reset()
        await self._travel(connection)

    async def unpin_consumer(self, connection: SimConnection, _declared: ConsumerDeclaration, _pin: Any) -> None:
        """Have it serve another."""
        if connection.is_connected:
            self.consumer.unpin()

    async def _travel(self, connection: SimConnection) -> None:
        await asyncio.sleep(self.draw.expovariate(300))
        if not connection.is_connected:
            raise NatsUnavailable("no answer")


def simulate_projector(seed: int) -> list[str]:
    """
    Run *seed*, and return its timeline.

    Raises:
        Violation: with the timeline as a note.

    """
    made: list[ProjectorRun] = []

    async def run() -> None:
        made.append(ProjectorRun(seed))
        with ExitStack() as stack:
            for module, name, value in _replaced(made[0]):
                stack.enter_context(patch.object(module, name, value))
            await made[0].run()

    try:
        run_virtual(run(), seed)
    except AssertionError as exc:
        exc.add_note("\n".join([made[0].mode, *made[0].timeline]))
        raise
    return [*made[0].timeline, f"stored {list(made[0].table.stored)}", f"buried {made[0].buried()}"]


def _replaced(run: ProjectorRun) -> list[tuple[Any, str, Any]]:
    return [
        (puller, "ensure_consumer", run.ensure_consumer),
        (puller, "reset_consumer", run.reset_consumer),
        (puller, "unpin_consumer", run.unpin_consumer),
        (burial, "store", run.keeping.store),
        (suspects, "store", run.keeping.store),
        (suspects, "last_payload", run.keeping.last_payload),
        # What takes hundreds of messages happens with a few.
        (suspects, "_BLOCK", 20),
        (suspects, "_SPLIT", 4),
    ]
