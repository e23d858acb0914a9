"""A campaign: start all processes, inject the faults, heal, and judge."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import structlog

from consumers.dead_letters.letter import Letter, read_letter
from consumers.verification.ledger import checksum
from consumers.verification.readback import read_back
from noetl_events.jetstream.declarations import DEAD_STREAM
from noetl_events.jetstream.storage import read_stored
from noetl_events.testing import eventually
from tests.faults.campaign.broker import event_id_of, order_of, patiently
from tests.faults.campaign.clients import Clients, running_clients
from tests.faults.campaign.events import expected_checksum
from tests.faults.campaign.fault_plan import Happened, Nemesis, Planned
from tests.faults.campaign.journal import Story
from tests.faults.campaign.rows import StoredRow
from tests.faults.campaign.system import PUBLISHERS, Shape, System, running
from tests.faults.campaign.verdict import Evidence, Verdict, is_unprotected, judge

if TYPE_CHECKING:
    from pathlib import Path


log = structlog.get_logger()

_CAUGHT_UP = 120.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """
    The course and the result of a campaign.

    Args:
        began: monotonic second of the start, as *ended* for the end.
        caught_up: seconds from the last healing until every event acknowledged before it was a row; None if never.
        deaths: exit codes of processes that ended by themselves, by name.
        starts: number of starts of each process, by name.

    """

    seed: int
    began: float
    ended: float
    happened: list[Happened]
    story: Story
    rows: Sequence[StoredRow]
    verdict: Verdict
    caught_up: float | None
    deaths: dict[str, list[int]]
    starts: dict[str, int]

    @property
    def holds(self) -> bool:
        """True if every promise was kept, and no process ended by itself."""
        return self.verdict.holds and self.caught_up is not None and not self.deaths

    @property
    def kinds(self) -> Counter[str]:
        """The number of faults of each kind."""
        return Counter(each.kind for each in self.happened)


async def wage(folder: Path, plan: Sequence[Planned], *, seed: int, shape: Shape) -> Outcome:
    """Run all processes in *folder*, carry out *plan* once events flow, and return the outcome."""
    async with running(folder, shape) as system:
        began = time.monotonic()
        await eventually(partial(_flows, system), timeout=180, what="rows of every worker")
        nemesis = Nemesis(system, plan)
        async with running_clients(system) as clients:
            await nemesis.run()
            caught_up = await _catch_up(system, max(each.healed for each in nemesis.happened))
            log.info("campaign.caught_up", seconds=caught_up)
            for process in system.processes.values():
                await asyncio.to_thread(process.revive)
            # The workers still emit, so a reader that was away for all of a short campaign gets events now.
            await eventually(lambda: clients.reader.seen, timeout=180, what="an event for the reader")
        await _settle(system)
        ended = time.monotonic()
        evidence = await _gather(system, clients)
        return Outcome(
            seed=seed,
            began=began,
            ended=ended,
            happened=sorted(nemesis.happened, key=lambda each: each.began),
            story=system.story,
            rows=evidence.rows,
            verdict=await asyncio.to_thread(judge, evidence),
            caught_up=caught_up,
            deaths={process.name: process.died for process in system.processes.values() if process.died},
            starts={process.name: process.starts for process in system.processes.values()},
        )


async def _flows(system: System) -> bool:
    """Return true if there are rows of every worker."""
    await asyncio.to_thread(system.story.read, system.folder)
    acknowledged = system.story.acknowledged
    there = acknowledged.keys() - await system.rows.missing(acknowledged)
    return len({system.story.attempted[each].journal for each in there}) == len(PUBLISHERS)


async def _catch_up(system: System, healed: float) -> float | None:
    """Return the seconds since *healed*, the last healing, once the events acknowledged by then are stored."""
    await asyncio.to_thread(system.story.read, system.folder)
    missing = await system.rows.missing(_promised(system, healed))
    while missing and time.monotonic() < healed + _CAUGHT_UP:
        await asyncio.sleep(0.1)
        missing = await system.rows.missing(missing)
    return None if missing else round(time.monotonic() - healed, 1)


async def _settle(system: System) -> None:
    """Stop the workers, and wait until every event in the stream is a row or a dead letter."""
    await system.stop_workers()
    await asyncio.to_thread(system.story.read, system.folder)
    deadline = time.monotonic() + _CAUGHT_UP
    while time.monotonic() < deadline:
        if await system.broker.lag() == 0:
            break
        await asyncio.sleep(0.2)
    await system.stop_daemons()


def _promised(system: System, until: float) -> list[int]:
    story = system.story
    return [
        event_id
        for event_id, at in story.acknowledged.items()
        if at <= until and not is_unprotected(event_id, story, system.deletions)
    ]


async def _gather(system: System, clients: Clients) -> Evidence:
    sums: dict[int, int] = {}
    async with aclosing(read_back(system.postgres.url)) as batches:
        async for rows in batches:
            sums |= {row.event_id or 0: checksum(row) for row in rows}
    attempted = system.story.attempted
    return Evidence(
        story=system.story,
        rows=await system.rows.all(),
        sums=sums,
        expected={each: expected_checksum(each, attempted[each].execution_id) for each in sums if each in attempted},
        dead=await _dead(system),
        poison=clients.poison.sent,
        deletions=tuple(system.deletions),
        orders=(*system.orders, order_of(await system.broker.contents())),
        seen=clients.reader.seen,
        complaints=clients.complaints,
        # Postgres loses its own counters in a crash, and keeps its log.
        deadlocks=system.postgres.log.count("deadlock detected"),
    )


async def _dead(system: System) -> Counter[int]:
    """Return the number of dead-lettered messages of each id; one dead-lettered twice is one for its readers."""
    buried = await patiently(partial(_letters, system))
    return Counter({letter.identity: event_id_of(letter.headers) for letter in buried}.values())


async def _letters(system: System) -> list[Letter]:
    async with (
        system.broker.operator() as connection,
        aclosing(read_stored(connection, DEAD_STREAM)) as letters,
    ):
        return [read_letter(letter) async for letter in letters]
