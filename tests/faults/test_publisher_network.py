"""
The publisher with a network and a cluster that fail under load: acknowledged events are stored, once, in order.

Short by default; `make faults-tests` runs the full lengths: 300,000 events with 10 kills and 50 cuts, 6 leaders in
a minute.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream, show_stream
from noetl_events.sink import SinkUnavailable
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_event, make_events
from noetl_events.testing.nats_server import NatsServer, nats_cluster
from noetl_events.testing.proxy import FaultyProxy
from tests.faults.load import EMITTERS, STREAM, Load, is_made, require_exactly_once
from tests.jetstream.credentials import Operator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LONG = os.environ.get("NOETL_FAULTS") == "long"
EVENTS, KILLS, CUTS = (300_000, 10, 50) if LONG else (20_000, 2, 6)
LEADERS, LEADER_EVERY = (6, 10.0) if LONG else (1, 3.0)
MEBIBYTE = 2**20

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
async def proxy(own_server: NatsServer, own_connection: Connection) -> AsyncIterator[FaultyProxy]:
    """Run a proxy between a publisher and the server with the streams."""
    async with FaultyProxy("127.0.0.1", own_server.port) as between:
        yield between


@pytest.fixture
async def through(proxy: FaultyProxy) -> AsyncIterator[Connection]:
    """Connect through the proxy."""
    async with Connection(ConnectOptions(servers=proxy.url("nats"))) as connection:
        yield connection


@pytest.mark.parametrize("count", [pytest.param(1, id="one event"), pytest.param(200, id="batch")])
@pytest.mark.parametrize(
    ("direction", "sign"),
    [
        pytest.param("up", b"HPUB", id="before the server has it"),
        pytest.param("down", b'"seq":', id="before the answer"),
    ],
)
async def test_connection_cut_in_the_middle(
    own_server: NatsServer, proxy: FaultyProxy, through: Connection, direction: str, sign: bytes, count: int
) -> None:
    """A connection cut while an event or its answer is on its way fails no call, and each event is stored once."""
    sink = NatsSink(through)
    cuts = 3

    def cut(way: str, chunk: bytes) -> bool:
        nonlocal cuts
        if way != direction or sign not in chunk or not cuts:
            return False
        cuts -= 1
        proxy.cut()
        return True

    proxy.drop(cut)
    await sink.emit_batch(make_events(count))
    await sink.aclose()

    assert cuts == 0
    await require_exactly_once(own_server.url, list(range(1, count + 1)))


@pytest.mark.parametrize("count", [pytest.param(1, id="one event"), pytest.param(200, id="batch")])
async def test_answers_that_get_lost(
    own_server: NatsServer, proxy: FaultyProxy, through: Connection, count: int
) -> None:
    """Lost answers on a connection that stays are asked for with the same ids, and the server reports duplicates."""
    sink = NatsSink(through)
    await sink.emit(make_event(0))
    swallowed = 0

    def swallow(way: str, chunk: bytes) -> bool:
        nonlocal swallowed
        is_answer = way == "down" and b'"stream":' in chunk and not swallowed
        swallowed += is_answer
        return is_answer

    proxy.drop(swallow)
    await sink.emit_batch(make_events(count))
    await sink.aclose()

    assert swallowed == 1
    assert sink.counts.sent_again >= 1
    await require_exactly_once(own_server.url, list(range(count + 1)))


async def test_server_at_another_address(own_server: NatsServer, tmp_path: Path) -> None:
    """A server that returns at another given address is found, and no event is lost in between."""
    other = NatsServer(store_dir=tmp_path / "nats")
    both = f"{own_server.url},{other.url}"
    async with Connection(ConnectOptions(servers=both)) as connection:
        await ensure_stream(connection, STREAM)
        load = Load(NatsSink(connection))
        load.start(size=10)
        await load.progress(20 * EMITTERS)
        await asyncio.to_thread(own_server.kill)
        with other:
            await load.progress(20 * EMITTERS)
            await load.stop()

            await require_exactly_once(other.url, load.acknowledged)


async def test_credentials_expire_and_are_restored(tmp_path: Path) -> None:
    """While the credentials are expired `emit` waits; with new ones in the file it continues, and no event is lost."""
    operator, credentials = Operator(), tmp_path / "worker.creds"
    with NatsServer(store_dir=tmp_path / "nats", config=operator.config) as server:
        operator.write_credentials(credentials, seconds=8)
        options = ConnectOptions(servers=server.url, credentials=str(credentials), connect_timeout=20.0)
        async with Connection(options) as connection:
            await ensure_stream(connection, STREAM)
            load = Load(NatsSink(connection))
            load.start(size=10)
            await load.progress(EMITTERS)
            await eventually(lambda: not connection.is_connected)
            operator.write_credentials(credentials)
            await load.progress(20 * EMITTERS)
            await load.stop()

        await require_exactly_once(server.url, load.acknowledged, user_credentials=str(credentials))


async def test_cluster_that_loses_its_leaders(tmp_path: Path) -> None:
    """The stream's leader in a cluster of three is killed repeatedly: no acknowledged event is lost or duplicated."""
    with nats_cluster(tmp_path) as members:
        servers = ",".join(member.url for member in members)
        async with Connection(ConnectOptions(servers=servers)) as connection:
            await eventually(lambda: is_made(connection, StreamDeclaration(replicas=3)))
            load = Load(NatsSink(connection))
            load.start(size=10)
            for _ in range(LEADERS):
                await load.progress(EMITTERS)
                leader = await find_leader(connection, members)
                await asyncio.to_thread(leader.kill)
                await asyncio.sleep(LEADER_EVERY / 2)
                await asyncio.to_thread(leader.start)
                await asyncio.sleep(LEADER_EVERY / 2)
            await load.progress(20 * EMITTERS)
            await load.stop()

        await require_exactly_once(members[0].url, load.acknowledged)


async def test_leader_without_followers_convinces_nobody(tmp_path: Path) -> None:
    """A message that an isolated leader got from one process is not acknowledged to the next, which sends it again."""
    events = [make_event(number, execution_id=number % 100) for number in range(600)]
    with nats_cluster(tmp_path) as members:
        async with Connection(ConnectOptions(servers=",".join(member.url for member in members))) as connection:
            await eventually(lambda: is_made(connection, StreamDeclaration(replicas=3)))
            leader = await find_leader(connection, members)
            followers = [member for member in members if member is not leader]
            for follower in followers:
                await asyncio.to_thread(follower.pause)
            for _ in range(2):
                async with Connection(ConnectOptions(servers=leader.url)) as alone:
                    sink = NatsSink(alone, timeout=2.0)
                    with pytest.raises(SinkUnavailable):
                        await sink.emit_batch(events)
                    await sink.aclose()
            await asyncio.to_thread(leader.kill)
            for follower in followers:
                follower.resume()
            sink = NatsSink(connection)
            await sink.emit_batch(events)
            await sink.aclose()

        await require_exactly_once(followers[0].url, [event.event_id or 0 for event in events])


async def find_leader(connection: Connection, members: list[NatsServer]) -> NatsServer:
    """Return the leader of the stream, once there is one."""
    names = {member.name: member for member in members}
    found: list[NatsServer] = []

    async def found_one() -> bool:
        try:
            cluster = (await show_stream(connection, STREAM.name)).cluster
        except NatsUnavailable:
            return False
        found.extend(names[name] for name in [cluster and cluster.leader] if name)
        return bool(found)

    await eventually(found_one)
    return found[0]


async def test_everything_at_once(own_server: NatsServer, proxy: FaultyProxy, through: Connection) -> None:
    """Kills of the server and cuts of the connection in a long run: each event once, in order, memory flat."""
    seed = int(os.environ.get("NOETL_SEED", random.SystemRandom().randrange(10**6)))
    faults = ["kill"] * KILLS + ["cut"] * CUTS
    random.Random(seed).shuffle(faults)
    sink = NatsSink(through)
    load = Load(sink)
    load.start(size=25)
    resident = []
    for fault in faults:
        await load.progress(EVENTS // len(faults), seconds=120)
        resident.append(memory())
        if fault == "cut":
            proxy.cut()
        else:
            await asyncio.to_thread(own_server.kill)
            await asyncio.to_thread(own_server.start)
    await load.progress(EMITTERS, seconds=120)
    await load.stop()
    await sink.aclose()

    assert len(load.acknowledged) >= EVENTS, f"seed {seed}"
    await require_exactly_once(own_server.url, load.acknowledged)
    # The test's own list of acknowledged events grows by about 40 bytes an event.
    growth = resident[-1] - resident[len(faults) // 4] - 40 * EVENTS
    assert growth < 16 * MEBIBYTE, f"seed {seed}: {growth / MEBIBYTE:.1f} MiB"


def memory() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
