"""Clients outside the fault plan, invited or not, and the answers they got."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.faults.campaign.concurrent_writers import ConcurrentWriters
from tests.faults.campaign.misdirected_client import MisdirectedClient
from tests.faults.campaign.poison_producer import PoisonProducer
from tests.faults.campaign.sse_reader import Reader
from tests.faults.campaign.system import TOKEN
from tests.faults.campaign.unauthorized_client import UnauthorizedClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from noetl_events.jetstream.connection import Connection
    from tests.faults.campaign.system import System


class Clients:
    """Clients outside the fault plan: they are never killed."""

    def __init__(self, system: System, connection: Connection) -> None:
        self.complaints: Counter[str] = Counter()
        """The answers that should have been refused, by request."""

        known = {"authorization": f"Bearer {TOKEN}"}
        [link] = system.links["http"]
        # Only the reader can tell the gateway from another server in its path, so the others connect directly.
        self.poison = PoisonProducer(connection, system.gateway, known, self.complaints)
        self.unauthorized = UnauthorizedClient(system.gateway, self.complaints)
        self.reader = Reader(link.url("http"), known, self.complaints)
        self.misdirected = MisdirectedClient(self.complaints)
        self.writers = ConcurrentWriters(system.postgres.url)


@asynccontextmanager
async def running_clients(system: System) -> AsyncIterator[Clients]:
    """Run the clients during the block; a bug in one of them ends it."""
    # The connection is the operator's: repeatedly refused clients leave sockets open, which this process looks for.
    async with system.broker.operator() as connection, asyncio.TaskGroup() as tasks:
        clients = Clients(system, connection)
        await clients.writers.prepare()
        callers = (clients.poison, clients.unauthorized, clients.reader, clients.misdirected, clients.writers)
        running = [tasks.create_task(each.run()) for each in callers]
        yield clients
        for task in running:
            task.cancel()
