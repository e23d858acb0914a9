"""
A simulated run of the publisher: emitters, two `NatsSink`s, a stream, and faults between them.

Safe:  each acknowledged event is in the stream once, and no rejected one is; an ordering key keeps its order on a
       stream with batches.
Live:  after the last fault every emitter ends.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final

from noetl_events import EventsRejected, SinkUnavailable, decode
from noetl_events.jetstream.publish import batches, publisher
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import make_event
from tests.simulation.listener import Listener
from tests.simulation.nemesis import inflict
from tests.simulation.network import MAX_PAYLOAD, Server, SimConnection
from tests.simulation.replay import Timeline, replay
from tests.simulation.stream import Stream, never
from tests.simulation.uncertain_ids import UncertainIds
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from noetl_events import ExecutorEvent
    from tests.simulation.network import Command

# Situations that need thousands of messages arise with a few.
SMALL: Final = [
    (batches, "BURST", 4),
    (batches, "_FLOW", 6),
    (batches, "LONGEST", 20),
    (batches, "MOST", 6),
    (publisher, "_YIELD_EVERY", 5),
]
FAULTS_END: Final = 20.0
PATIENCE: Final = 300.0


class PublisherRun:
    """
    A run of the publisher.

    Args:
        seed: seed of all random choices.
        faults_at_once: number of faults that may overlap.

    """

    def __init__(self, seed: int, *, faults_at_once: int) -> None:
        self.draw = draw = Random(seed)
        self.faults_at_once = faults_at_once
        self.timeline = Timeline()
        self.note = self.timeline.note
        self.server = Server(draw)
        self.stream = Stream(self.server, "noetl.", batches=draw.choice(["new"] * 6 + ["disabled", "old"]))
        self.connections = [SimConnection(self.server, name) for name in ("pub", "other")]
        durable = draw.choice(["stored", "stored", "stored", "fsync"])
        timeout = draw.choice([2.0, 8.0, 30.0])
        self.sinks = [NatsSink(each, timeout=timeout, durable=durable, stream="S") for each in self.connections]  # type: ignore[arg-type]
        max_messages = draw.choice([8, 30, 20_000])
        queues = [sink._publisher._queue for sink in self.sinks]
        for queue in queues:
            queue.limit._max_messages = max_messages
        self.uncertain_ids = [UncertainIds(queue) for queue in queues]
        self.server.on_send = self._check
        self.server.listener = Listener(seed).hear
        self.is_over = False
        self.acknowledged: set[int] = set()
        self.refused: set[int] = set()
        self.emitted: dict[int, list[int]] = {}
        self._emitted = 0
        # The choice is not drawn from *draw*, so the other choices of a seed stay the same.
        self._ids_collide = Random(f"ids of {seed}").random() < 0.5

    async def run(self) -> None:
        """Run to the end, and check the result."""
        nemesis = asyncio.create_task(self._nemesis())
        emitters = [asyncio.create_task(self._emit(emitter)) for emitter in range(self.draw.randint(1, 4))]
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*emitters)
                for sink in self.sinks:
                    await sink.aclose()
        except TimeoutError:
            raise Violation(f"not done {PATIENCE - FAULTS_END:g} s after the last fault") from None
        finally:
            nemesis.cancel()
            with suppress(asyncio.CancelledError):
                await nemesis
        self.require_end()

    async def _emit(self, emitter: int) -> None:
        """Emit batches one after another, each until it is stored; two executions share an emitter."""
        draw = self.draw
        for _ in range(draw.randint(1, 6)):
            await asyncio.sleep(draw.expovariate(1.0) * draw.choice([0.0, 0.05, 4.0]))
            await self._emit_until_stored(
                [self._event(10 * emitter + draw.randrange(2)) for _ in range(draw.randint(1, 14))]
            )

    def _event(self, execution_id: int) -> ExecutorEvent:
        self._emitted += 1
        number = self._emitted
        chance = self.draw.random()
        size = MAX_PAYLOAD if chance < 0.01 else MAX_PAYLOAD * 3 // 4 if chance < 0.02 else 1
        self.emitted.setdefault(execution_id, []).append(number)
        # Events 6 and 7 both have the id 6, as from two generators in step, and are different events.
        event_id = number - number % 2 if self._ids_collide and number % 10 else number
        return make_event(event_id, execution_id=execution_id, step=f"{number:08}", context="x" * size)

    async def _emit_until_stored(self, events: list[ExecutorEvent]) -> None:
        sink, is_first = self.sinks[0], True
        while events:
            patience = self.draw.choice([0.05, 1.0]) if not self.is_over and self.draw.random() < 0.1 else PATIENCE
            try:
                async with asyncio.timeout(patience):
                    await sink.emit_batch(events)
            except (SinkUnavailable, TimeoutError) as exc:
                self.note(f"again {len(events)} from {number_of(events[0])}: {str(exc) or 'cancelled'}")
                if is_first:
                    self._require_truth(events, str(exc))
                is_first = False
                await asyncio.sleep(self.draw.random())
                # Another process may emit the event again, and knows of no unknown outcome.
                sink = self.draw.choice(self.sinks)
            except EventsRejected as exc:
                self._refuse(events, exc.reasons)
                return
            else:
                self._acknowledge(events)
                return

    def _refuse(self, events: list[ExecutorEvent], reasons: dict[int, str]) -> None:
        refused = [events[index] for index in reasons]
        self.refused |= {number_of(event) for event in refused}
        if any(len(event.context) < MAX_PAYLOAD // 2 for event in refused):
            raise Violation(f"refused without need: {reasons}")
        self._acknowledge([event for index, event in enumerate(events) if index not in reasons])

    def _require_truth(self, events: list[ExecutorEvent], reason: str) -> None:
        stored = {number_of(event) for event in events}.intersection(self.stored_numbers())
        if reason.startswith("not sent") and stored:
            raise Violation(f"reported as not sent, and stored: {sorted(stored)}")

    def _acknowledge(self, events: list[ExecutorEvent]) -> None:
        numbers = {number_of(event) for event in events}
        self.acknowledged |= numbers
        if missing := numbers - set(self.stored_numbers()):
            raise Violation(f"acknowledged and not stored: {sorted(missing)}")

    def _check(self, command: Command) -> None:
        for connection, uncertain_ids in zip(self.connections, self.uncertain_ids, strict=True):
            if command.client is connection.current:
                uncertain_ids.check(command)

    def stored_numbers(self) -> list[int]:
        """Return the numbers of the events in the stream, in order."""
        return [number_of(decode(message.data)) for message in self.stream.stored]

    def require_end(self) -> None:
        """Fail unless every event is in its place."""
        stored = self.stored_numbers()
        everything = {number for numbers in self.emitted.values() for number in numbers}
        if len(set(stored)) < len(stored):
            raise Violation(f"stored twice: {sorted(each for each in set(stored) if stored.count(each) > 1)}")
        if lost := everything - self.refused - set(stored):
            raise Violation(f"lost: {sorted(lost)}")
        if both := self.refused & set(stored):
            raise Violation(f"refused and stored: {sorted(both)}")
        if batched := [sorted(ids.batched_again) for ids in self.uncertain_ids if ids.batched_again]:
            raise Violation(f"of unknown outcome, and by batch again: {batched}")
        if self.stream.batches == "new":
            # In a window of plain publishes a message may be lost and the next one stored.
            self._require_order(stored)

    def _require_order(self, stored: list[int]) -> None:
        indexes = {number: index for index, number in enumerate(stored)}
        for execution_id, numbers in self.emitted.items():
            found = [indexes[number] for number in numbers if number in indexes]
            if found != sorted(found):
                order = sorted(numbers, key=lambda number: indexes.get(number, 0))
                raise Violation(f"execution {execution_id} out of order: {order}")

    async def _nemesis(self) -> None:
        faults: list[Callable[[], Awaitable[None]]] = [
            self._cut,
            self._change_leader,
            self._lose_quorum,
            self._lose_messages,
            self._fill,
            self._overload,
            self._restart,
        ]
        at_once = self.faults_at_once
        await inflict(self.draw, faults, paces=[0.05, 0.5, 3.0], until=FAULTS_END, at_once=at_once)
        self.is_over = True

    async def _cut(self) -> None:
        self.note("cut")
        await self.draw.choice(self.connections).cut(self._a_while(), for_good=self.draw.random() < 0.2)

    async def _restart(self) -> None:
        self.note("restart")
        self.stream.change_leader(keep_staged=True)
        self.server.is_up = False
        cuts = [asyncio.create_task(connection.cut(0.0)) for connection in self.connections]
        await asyncio.sleep(self._a_while())
        self.server.is_up = True
        await asyncio.gather(*cuts)

    async def _change_leader(self) -> None:
        self.note("leader")
        self.stream.has_leader = False
        await asyncio.sleep(self._a_while())
        self.stream.change_leader(keep_staged=self.draw.random() < 0.5)

    async def _lose_quorum(self) -> None:
        self.note("quorum")
        self.stream.has_quorum = False
        await asyncio.sleep(self._a_while() * 4)
        if self.draw.random() < 0.5:
            self.stream.regain_quorum()
        else:
            self.stream.change_leader(keep_staged=self.draw.random() < 0.5)

    async def _lose_messages(self) -> None:
        self.note("loss")
        self.server.lossy = self.draw.randint(1, 12)

    async def _fill(self) -> None:
        self.note("full")
        self.stream.is_full = True
        await asyncio.sleep(self._a_while())
        self.stream.is_full = False

    async def _overload(self) -> None:
        self.note("overload")
        share = self.draw.choice([0.02, 0.3, 1.0])
        self.stream.drops = lambda: self.draw.random() < share
        await asyncio.sleep(self._a_while())
        self.stream.drops = never

    def _a_while(self) -> float:
        return self.draw.expovariate(1.0) * self.draw.choice([0.01, 0.2, 2.0])


def number_of(event: ExecutorEvent) -> int:
    """Return the number of the event, whatever its id."""
    return int(event.step)


def simulate_publisher(seed: int, *, faults_at_once: int = 1) -> list[str]:
    """
    Run *seed* with *faults_at_once*, and return its timeline.

    Raises:
        Violation: a promise was broken; the timeline is a note of the exception.

    """
    run = replay(seed, partial(PublisherRun, faults_at_once=faults_at_once), lambda _: SMALL)
    return [*run.timeline, f"stored {run.stored_numbers()}"]
