"""All processes of a campaign: servers, proxies, and the project's own processes between them."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from noetl_events.testing.postgres_server import PostgresServer
from noetl_events.testing.proxy import FaultyProxy
from noetl_events.testing.server_process import free_port
from tests.cli import command
from tests.faults.campaign.broker import PASSWORD, USER, Broker, open_broker
from tests.faults.campaign.clock import ShiftedClock
from tests.faults.campaign.journal import Story
from tests.faults.campaign.process import Process
from tests.faults.campaign.rows import Rows
from tests.faults.campaign.worker import Job, work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.faults.campaign.verdict import Deletion

PARTITIONS = 4
PUBLISHERS = ("publisher 0", "publisher 1", "poster")
PROJECTORS = ("projector 0", "projector 1")
GATEWAY = "gateway"
TOKEN = "of-the-gateway"
_SETTINGS = {
    "NATS_USER": USER,
    "NATS_PASSWORD": PASSWORD,
    "NOETL_EVENT_STREAM_PARTITIONS": str(PARTITIONS),
}


class Shape(NamedTuple):
    """
    The size of a campaign.

    Args:
        nodes: number of NATS servers, 1 or 3.
        rate: events per second of each worker.
        takeover: seconds until the events in flight of a dead projector are redelivered to another.
        fsync: true if Postgres syncs.

    """

    nodes: int = 3
    rate: float = 100.0
    takeover: float = 2.0
    fsync: bool = True


class System:
    """The parts of the system that the nemesis may hit."""

    def __init__(
        self, folder: Path, port: int, broker: Broker, postgres: PostgresServer, links: dict[str, list[FaultyProxy]]
    ) -> None:
        self.folder = folder
        self.gateway = f"http://127.0.0.1:{port}"
        """The URL of the gateway, behind no proxy."""

        self.broker = broker
        self.postgres = postgres
        self.links = links
        self.rows = Rows(postgres.url)
        self.clock = ShiftedClock(folder / "clock")
        self.story = Story()
        self.processes: dict[str, Process] = {}
        self.deletions: list[Deletion] = []
        self.orders: list[dict[int, int]] = []
        """For each deleted stream, the ids of its events by their sequences."""

    async def stop_workers(self) -> None:
        """Let the workers forward their events, and end."""
        await asyncio.gather(*(asyncio.to_thread(self.processes[name].leave) for name in PUBLISHERS))

    async def stop_daemons(self) -> None:
        """Stop the other processes."""
        await asyncio.gather(*(asyncio.to_thread(self.processes[name].leave) for name in (*PROJECTORS, GATEWAY)))


@asynccontextmanager
async def running(folder: Path, shape: Shape) -> AsyncIterator[System]:
    """Run all processes with their files in *folder*, which exists, during the block."""
    async with AsyncExitStack() as stack:
        postgres = PostgresServer(data_dir=folder / "postgres", fsync=shape.fsync)
        stack.callback(postgres.terminate)
        broker, _ = await asyncio.gather(
            open_broker(folder, nodes=shape.nodes, partitions=PARTITIONS, stack=stack),
            asyncio.to_thread(postgres.start),
        )
        port = free_port()
        links = {
            "nats": broker.links,
            "postgres": [await stack.enter_async_context(FaultyProxy("127.0.0.1", postgres.port))],
            "http": [await stack.enter_async_context(FaultyProxy("127.0.0.1", port))],
        }
        system = System(folder, port, broker, postgres, links)
        (folder / "token").write_text(TOKEN)
        await system.rows.prepare()
        system.processes = _processes(system, shape, port)
        for process in system.processes.values():
            stack.callback(process.end)
            process.start()
        yield system


def _processes(system: System, shape: Shape, port: int) -> dict[str, Process]:
    [database] = system.links["postgres"]
    project = ("project", "--listen", "off", "--to", database.through(system.postgres.url))
    processes = {name: _daemon(system, name, project, shape) for name in PROJECTORS}
    serve = ("serve", "--listen", f"127.0.0.1:{port}", "--token-file", str(system.folder / "token"))
    processes[GATEWAY] = _daemon(system, GATEWAY, serve, shape)
    for place, name in enumerate(PUBLISHERS):
        processes[name] = Process(name, work, partial(_job, system, place, shape.rate))
    return processes


def _daemon(system: System, name: str, arguments: tuple[str, ...], shape: Shape) -> Process:
    settings = _SETTINGS | {
        "NATS_URL": system.broker.url,
        "NOETL_EVENT_STREAM_REPLICAS": str(shape.nodes),
        "NOETL_ACK_WAIT_SECS": str(shape.takeover),
        "NOETL_PIN_SECS": str(shape.takeover),
    }
    return Process(name, _serve, lambda _: (arguments, settings, str(system.folder / f"{name}.log")))


def _job(system: System, place: int, rate: float, start: int) -> tuple[Job]:
    name, [gateway] = PUBLISHERS[place], system.links["http"]
    posts = name == "poster"
    return (
        Job(
            target=f"{gateway.url('http')}/api/events" if posts else system.broker.url,
            user=USER,
            password=TOKEN if posts else PASSWORD,
            spool="" if posts else str(system.folder / f"spool-{place}"),
            journal=str(system.folder / f"{name}.{start}.journal"),
            clock=str(system.folder / "clock"),
            # A restarted worker is another pod, so its clock may be behind the one before.
            node=(place + start * len(PUBLISHERS)) % 1024,
            rate=rate,
            log=str(system.folder / f"{name}.log"),
        ),
    )


def _serve(arguments: Sequence[str], settings: dict[str, str], log: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NATS_", "NOETL_"))}
    command.become(arguments, kept | settings, [Path("/dev/null"), Path(log), Path(log)])
