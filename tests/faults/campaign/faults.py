"""
The faults of the nemesis.  Each fault hits a part of the system, lasts, and is healed by the function that caused it;
two faults of one part never overlap, faults of different parts do.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import asyncpg
from nats.js.api import DiscardPolicy
from nats.js.errors import NotFoundError

from tests.faults.campaign.broker import order_of
from tests.faults.campaign.system import GATEWAY, PROJECTORS, PUBLISHERS
from tests.faults.campaign.verdict import Deletion

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from nats.js import JetStreamContext

    from noetl_events.testing.postgres_server import PostgresServer
    from noetl_events.testing.proxy import FaultyProxy
    from tests.faults.campaign.system import System


# The sessions are ended during a transaction: an idle client would only find a closed connection.
_END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND state <> 'idle' AND pid <> pg_backend_pid()
"""
_PAGE = b"<!doctype html><title>Sign in</title><p>Sign in to use this network."
# A portal, or the wrong backend of a load balancer, gives this answer to every request.
_PORTAL = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (
    len(_PAGE),
    _PAGE,
)


class Turn(NamedTuple):
    """The duration of a fault in seconds, and a number from 0 to 1 that chooses its victim."""

    seconds: float
    chance: float

    def of(self, victims: Sequence[Any]) -> Any:
        """Return the victim."""
        return victims[int(self.chance * len(victims))]


class Server(Protocol):
    """A server that can be killed and paused."""

    def start(self) -> None:
        """Start the server."""

    def kill(self) -> None:
        """Kill the server (-9)."""

    def pause(self) -> None:
        """Pause the server."""

    def resume(self) -> None:
        """Resume the server."""


class Fault(NamedTuple):
    """The part of the system that is hit, and the fault; the function returns the victim after the healing."""

    part: str
    inflict: Callable[[System, Turn], Awaitable[str]]


async def _down(victim: Server, seconds: float, end: Callable[[], None]) -> None:
    await asyncio.to_thread(end)
    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.to_thread(victim.start)


async def _killed(victim: Server, seconds: float) -> None:
    await _down(victim, seconds, victim.kill)


async def _stopped(victim: PostgresServer, seconds: float) -> None:
    await _down(victim, seconds, victim.terminate)


async def _sessions_ended(victim: PostgresServer, seconds: float) -> None:
    """End the active sessions, repeatedly."""
    healed = time.monotonic() + seconds
    connection = await asyncpg.connect(victim.url)
    try:
        while time.monotonic() < healed:
            await connection.execute(_END_SESSIONS)
            await asyncio.sleep(0.02)
    finally:
        await connection.close()


async def _halted(victim: Server, seconds: float) -> None:
    await asyncio.to_thread(victim.pause)
    try:
        await asyncio.sleep(seconds)
    finally:
        victim.resume()


async def _member(system: System, turn: Turn, *, names: Sequence[str], harm: Callable[..., Awaitable[None]]) -> str:
    process = system.processes[turn.of(names)]
    await harm(process, turn.seconds)
    return process.name


async def _server(system: System, turn: Turn, *, harm: Callable[..., Awaitable[None]]) -> str:
    server = turn.of(system.broker.servers)
    await harm(server, turn.seconds)
    return str(server.name)


async def _leader(system: System, turn: Turn, *, harm: Callable[..., Awaitable[None]]) -> str:
    server = await system.broker.leader()
    await harm(server, turn.seconds)
    return server.name


async def _all_servers(system: System, turn: Turn) -> str:
    await asyncio.gather(*(_killed(server, turn.seconds) for server in system.broker.servers))
    return "every server"


async def _lone_leader(system: System, turn: Turn) -> str:
    """Isolate the leader from its followers, and kill it before they return: messages that it alone had may be lost."""
    leader = await system.broker.leader()
    followers = [server for server in system.broker.servers if server is not leader]
    try:
        for follower in followers:
            await asyncio.to_thread(follower.pause)
        await asyncio.sleep(turn.seconds)
        await asyncio.to_thread(leader.kill)
    finally:
        for follower in followers:
            follower.resume()
    # If the leader were back at once, it would be elected again with the messages that it alone has.
    await _killed(leader, turn.seconds)
    return leader.name


async def _postgres(system: System, turn: Turn, *, harm: Callable[..., Awaitable[None]]) -> str:
    await harm(system.postgres, turn.seconds)
    return "postgres"


async def _disk_full(system: System, turn: Turn) -> str:
    await system.rows.fill_disk()
    try:
        await asyncio.sleep(turn.seconds)
    finally:
        await system.rows.free_disk()
    return "postgres"


async def _link(system: System, turn: Turn, *, to: str, harm: Callable[[FaultyProxy], None]) -> str:
    links = system.links[to]
    for link in links:
        harm(link)
    try:
        await asyncio.sleep(turn.seconds)
    finally:
        for link in links:
            link.heal()
            # A connection that lost bytes in one direction is cut as well, because TCP never leaves a hole in a stream.
            link.cut()
    return to


def _refuse(link: FaultyProxy) -> None:
    link.refuse()
    link.cut()


def _lose_answers(link: FaultyProxy) -> None:
    link.drop(lambda direction, _: direction == "down")


def _answer_as_portal(link: FaultyProxy) -> None:
    link.impersonate(_PORTAL)


def _delay_answers(link: FaultyProxy) -> None:
    link.delay("down", 0.4)


async def _stream_full(system: System, turn: Turn) -> str:
    await system.broker.ask(partial(_limit, name=system.broker.declared.name, full=True))
    try:
        await asyncio.sleep(turn.seconds)
    finally:
        await system.broker.ask(partial(_limit, name=system.broker.declared.name, full=False))
    return system.broker.declared.name


async def _limit(js: JetStreamContext, *, name: str, full: bool) -> None:
    info = await js.stream_info(name)
    info.config.max_msgs = max(info.state.messages, 1) if full else -1
    info.config.discard = DiscardPolicy.NEW if full else DiscardPolicy.OLD
    await js.update_stream(info.config)


async def _consumer_deleted(system: System, turn: Turn) -> str:
    stream = system.broker.declared.name
    names = sorted(info.name for info in await system.broker.projectors())
    if not names:
        return "none there"
    name = str(turn.of(names))
    with suppress(NotFoundError):
        await system.broker.ask(lambda js: js.delete_consumer(stream, name))
    return name


async def _stream_recreated(system: System, _: Turn) -> str:
    began = time.monotonic()
    contents = await system.broker.contents()
    with suppress(NotFoundError):
        await system.broker.ask(lambda js: js.delete_stream(system.broker.declared.name))
    await system.broker.create_streams()
    healed = time.monotonic()
    unsettled = frozenset(each.event_id for each in contents.values() if not each.settled)
    system.deletions.append(Deletion(unsettled, began, healed))
    system.orders.append(order_of(contents))
    return system.broker.declared.name


async def _credentials_revoked(system: System, turn: Turn) -> str:
    await asyncio.to_thread(system.broker.revoke)
    try:
        await asyncio.sleep(turn.seconds)
    finally:
        await asyncio.to_thread(system.broker.restore)
    return "user app"


async def _clock_jump(system: System, turn: Turn) -> str:
    seconds = round((turn.chance - 0.5) * 600, 1)
    system.clock.shift(seconds)
    await asyncio.sleep(turn.seconds)
    system.clock.shift(0.0)
    return f"{seconds:+} s"


def _links(to: str) -> dict[str, Fault]:
    part = f"link to {to}"
    return {
        f"{part} cut": Fault(part, partial(_link, to=to, harm=_refuse)),
        f"{part} is a black hole": Fault(part, partial(_link, to=to, harm=lambda link: link.black_hole())),
        f"{part} loses answers": Fault(part, partial(_link, to=to, harm=_lose_answers)),
        f"{part} delays answers": Fault(part, partial(_link, to=to, harm=_delay_answers)),
    }


def _processes(part: str, names: Sequence[str]) -> dict[str, Fault]:
    return {
        f"{part} killed": Fault(part, partial(_member, names=names, harm=_killed)),
        f"{part} halted": Fault(part, partial(_member, names=names, harm=_halted)),
    }


FAULTS: dict[str, Fault] = {
    **_processes("publisher", PUBLISHERS),
    **_processes("projector", PROJECTORS),
    **_processes("gateway", [GATEWAY]),
    "nats-server killed": Fault("broker", partial(_server, harm=_killed)),
    "nats-server halted": Fault("broker", partial(_server, harm=_halted)),
    "leader killed": Fault("broker", partial(_leader, harm=_killed)),
    "leader halted": Fault("broker", partial(_leader, harm=_halted)),
    "leader left alone and killed": Fault("broker", _lone_leader),
    "every nats-server killed": Fault("broker", _all_servers),
    "postgres killed": Fault("postgres", partial(_postgres, harm=_killed)),
    "postgres halted": Fault("postgres", partial(_postgres, harm=_halted)),
    "postgres stopped in order": Fault("postgres", partial(_postgres, harm=_stopped)),
    "disk of postgres full": Fault("postgres", _disk_full),
    "sessions of postgres ended": Fault("postgres", partial(_postgres, harm=_sessions_ended)),
    **_links("nats"),
    **_links("postgres"),
    **_links("http"),
    "link to http leads to somebody else": Fault("link to http", partial(_link, to="http", harm=_answer_as_portal)),
    "stream full": Fault("broker", _stream_full),
    "consumer deleted": Fault("broker", _consumer_deleted),
    "stream created anew": Fault("broker", _stream_recreated),
    "credentials revoked": Fault("broker", _credentials_revoked),
    "clock jumps": Fault("clock", _clock_jump),
}
