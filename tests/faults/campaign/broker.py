"""The NATS of a campaign: one server or three, each behind its own proxy, and the actions of its operator."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import nats
import nats.errors
from nats.js.errors import APIError, NotFoundError
from nats.js.errors import Error as JetStreamError

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import DEAD_LETTERS, TRIALS, StreamDeclaration
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.publish.message import ID_HEADER
from noetl_events.jetstream.storage import read_stored
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing.nats_server import NatsServer, nats_cluster
from noetl_events.testing.proxy import FaultyProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from contextlib import AsyncExitStack
    from pathlib import Path

    from nats.js import JetStreamContext
    from nats.js.api import ConsumerInfo, StreamInfo

USER, PASSWORD = "app", "of-the-app"
_ADMIN, _SECRET = "admin", "of-the-admin"
_APP = f'{{user: "{USER}", password: "{PASSWORD}"}}'
_CONFIG = f'authorization {{ users: [{{user: "{_ADMIN}", password: "{_SECRET}"}}, {_APP}] }}\n'
_PATIENCE = 180.0
# The durable name of a projector, before the number of its partition.
CONSUMER = "noetl_projector"

Answer = TypeVar("Answer")


def event_id_of(headers: Mapping[str, str]) -> int:
    """Return the id of the event that was published with *headers*; foreign messages have no digest behind it."""
    return int(headers[ID_HEADER].partition("-")[0])


class Kept(NamedTuple):
    """A message in the stream: its id, and true if the projector of its partition has acknowledged it."""

    event_id: int
    settled: bool


class Broker:
    """Servers and their proxies; clients know only the proxies."""

    def __init__(self, servers: list[NatsServer], links: list[FaultyProxy], partitions: int) -> None:
        self.servers = servers
        self.links = links
        self.url = ",".join(link.url("nats") for link in links)
        self.declared = StreamDeclaration(replicas=len(servers), partitions=partitions)

    async def create_streams(self) -> None:
        """Create the missing streams."""
        own = ",".join(server.url for server in self.servers)
        async with Connection(ConnectOptions(servers=own, user=_ADMIN, password=_SECRET)) as connection:
            for declared in (self.declared, DEAD_LETTERS, TRIALS):
                await ensure_stream(connection, declared)

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[Connection]:
        """Return a connection for the operator, which goes through no proxy."""
        running = [server.url for server in self.servers if server.running]
        options = ConnectOptions(servers=",".join(running), user=_ADMIN, password=_SECRET)
        async with Connection(options) as connection:
            yield connection

    async def ask(self, question: Callable[[JetStreamContext], Awaitable[Answer]]) -> Answer:
        """Return the answer of JetStream to the operator, asked again for half a minute while there is no leader."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return await self._asked_once(question)
            except NotFoundError:
                raise
            except (nats.errors.Error, JetStreamError, APIError, OSError, TimeoutError):
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.2)

    async def leader(self) -> NatsServer:
        """Return the leader of the stream of events."""
        info = await self.ask(self._stream)
        name = info.cluster.leader if info.cluster else self.servers[0].name
        return next(server for server in self.servers if server.name == name)

    async def lag(self) -> int:
        """Return the number of events that no projector has acknowledged."""
        return sum((info.num_pending or 0) + (info.num_ack_pending or 0) for info in await self.projectors())

    async def projectors(self) -> list[ConsumerInfo]:
        """Return the consumers of the projectors, without those of a gateway."""
        consumers = await self.ask(lambda js: js.consumers_info(self.declared.name))
        return [info for info in consumers if info.name.startswith(CONSUMER)]

    async def contents(self) -> dict[int, Kept]:
        """Return the messages of the stream, by sequence."""
        return await patiently(self._contents_once)

    def revoke(self) -> None:
        """Remove the applications' user."""
        for server in self.servers:
            server.reload(server.config.replace(_APP, ""))

    def restore(self) -> None:
        """Restore the applications' user."""
        secured = f'password: "{_SECRET}"}}, '
        for server in self.servers:
            if _APP not in server.config:
                server.reload(server.config.replace(secured, secured + _APP))

    async def _contents_once(self) -> dict[int, Kept]:
        floors = {info.name: info.ack_floor.stream_seq for info in await self.projectors() if info.ack_floor}
        async with (
            self.operator() as connection,
            aclosing(read_stored(connection, self.declared.name, headers_only=True)) as stored,
        ):
            return {
                message.sequence: Kept(
                    event_id_of(message.headers),
                    message.sequence <= floors.get(f"{CONSUMER}_{_lane_of(message.subject)}", 0),
                )
                async for message in stored
            }

    async def _stream(self, js: JetStreamContext) -> StreamInfo:
        return await js.stream_info(self.declared.name)

    async def _asked_once(self, question: Callable[[JetStreamContext], Awaitable[Answer]]) -> Answer:
        running = [server.url for server in self.servers if server.running]
        options = {"allow_reconnect": False, "connect_timeout": 2, "error_cb": _keep_quiet}
        async with asyncio.timeout(8):
            client = await nats.connect(running, user=_ADMIN, password=_SECRET, **options)
            try:
                return await question(client.jetstream(timeout=4))
            finally:
                await client.close()


async def open_broker(root: Path, *, nodes: int, partitions: int, stack: AsyncExitStack) -> Broker:
    """Return a broker of *nodes* servers with its streams; *stack* stops it."""
    servers = await asyncio.to_thread(_start, root, nodes, stack)
    links = [await stack.enter_async_context(FaultyProxy("127.0.0.1", server.port)) for server in servers]
    for server, link in zip(servers, links, strict=True):
        # Otherwise a client learns the other servers' ports, and bypasses the proxies.
        await asyncio.to_thread(server.reload, f'{server.config}client_advertise: "127.0.0.1:{link.port}"\n')
    broker = Broker(servers, links, partitions)
    await broker.create_streams()
    return broker


async def patiently(read: Callable[[], Awaitable[Answer]]) -> Answer:
    """Return the result of *read*, called again for half a minute while NATS does not answer."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return await read()
        except NatsUnavailable:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.2)


def order_of(contents: Mapping[int, Kept]) -> dict[int, int]:
    """Return the id of each message, by its sequence."""
    return {sequence: kept.event_id for sequence, kept in contents.items()}


def _lane_of(subject: str) -> str:
    """Return the token that the stream has inserted after `noetl.events`."""
    return subject.split(".")[2]


def _start(root: Path, nodes: int, stack: AsyncExitStack) -> list[NatsServer]:
    if nodes == 1:
        return [stack.enter_context(NatsServer(store_dir=root / "nats", config=_CONFIG))]
    return stack.enter_context(nats_cluster(root / "nats", nodes, config=_CONFIG))


async def _keep_quiet(_: Exception) -> None:
    """Log nothing: the operator's requests fail often while servers are killed, and are repeated."""
