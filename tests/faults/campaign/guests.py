"""Clients outside the fault plan, invited or not, and the answers they got."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.faults.campaign.misled import Misled
from tests.faults.campaign.poisoner import Poisoner
from tests.faults.campaign.reader import Reader
from tests.faults.campaign.rivals import Rivals
from tests.faults.campaign.stranger import Stranger
from tests.faults.campaign.system import TOKEN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from noetl_events.jetstream.connection import Connection
    from tests.faults.campaign.system import System


class Guests:
    """Clients outside the fault plan: they are never killed."""

    def __init__(self, system: System, connection: Connection) -> None:
        self.complaints: Counter[str] = Counter()
        """The answers that should have been refused, by request."""

        known = {"authorization": f"Bearer {TOKEN}"}
        [link] = system.links["http"]
        # Only the reader can tell the gateway from another server in its path, so the others connect directly.
        self.poisoner = Poisoner(connection, system.gateway, known, self.complaints)
        self.stranger = Stranger(system.gateway, self.complaints)
        self.reader = Reader(link.url("http"), known, self.complaints)
        self.misled = Misled(self.complaints)
        self.rivals = Rivals(system.postgres.url)


@asynccontextmanager
async def visiting(system: System) -> AsyncIterator[Guests]:
    """Run the guests during the block; a bug in one of them ends it."""
    # The connection is the operator's: repeatedly refused clients leave sockets open, which this process looks for.
    async with system.broker.operator() as connection, asyncio.TaskGroup() as tasks:
        guests = Guests(system, connection)
        await guests.rivals.prepare()
        callers = (guests.poisoner, guests.stranger, guests.reader, guests.misled, guests.rivals)
        running = [tasks.create_task(each.run()) for each in callers]
        yield guests
        for task in running:
            task.cancel()
