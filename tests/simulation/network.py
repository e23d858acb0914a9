"""
A simulated NATS server and its clients, with the part of nats-py's interface that the code uses.

A client's bytes pass two pipes in order, each write with its own latency.  A lost connection loses the bytes in flight
except for a prefix.  `Server` passes each command to the owner of its subject.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nats.errors import TimeoutError as NatsTimeoutError

from noetl_events.jetstream.client import Home
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.message import Arrival
from noetl_events.jetstream.options import ConnectOptions
from tests.simulation.pipe import Pipe
from tests.simulation.protocol import parsed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from random import Random

MAX_PAYLOAD: Final = 4_000


class Command(NamedTuple):
    """A publish as the server reads it."""

    client: SimClient
    subject: str
    reply: str
    headers: dict[str, str]
    data: bytes


class Server:
    """
    The server between the pipes.

    Args:
        draw: random generator of the run.

    """

    def __init__(self, draw: Random) -> None:
        self.draw = draw
        self.routes: list[tuple[str, Callable[[Command], None]]] = []
        self.is_up = True
        self.clients: list[SimClient] = []
        self.inboxes = 0
        self.lossy = 0
        """The number of next messages through the server that are lost on the way."""

        self.listener: Callable[[Command], None] = lambda _: None
        """A subscriber of everything, which may answer."""

        self.on_send: Callable[[Command], None] = lambda _: None
        """A callback for each command that a client sends."""

    def route(self, prefix: str, take: Callable[[Command], None]) -> None:
        """Call *take* with every message to a subject that begins with *prefix*."""
        self.routes.append((prefix, take))

    def take(self, command: Command) -> None:
        """Take one command from a client."""
        if self.loses():
            return
        self.listener(command)
        for prefix, take in self.routes:
            if command.subject.startswith(prefix):
                take(command)
                return

    def loses(self) -> bool:
        """Return true if the next message is lost."""
        self.lossy -= self.lossy > 0
        return self.lossy > 0 and self.draw.random() < 0.5


class SimClient:
    """A client like nats-py's: connected or not, and closed for good when its connection is replaced."""

    max_payload = MAX_PAYLOAD
    home = Home(domain="")

    def __init__(self, server: Server, name: str) -> None:
        self.is_connected = server.is_up
        self.is_closed = False
        self.epoch = 0
        self._ghost_until = 0.0
        self._server = server
        self._name = name
        self._takers: dict[str, Callable[[Arrival], Awaitable[None] | None]] = {}
        self._interest: set[str] = set()
        self._up = Pipe(server.draw)
        self._down = Pipe(server.draw)
        self._pending: list[Command] = []
        server.clients.append(self)

    def new_inbox(self) -> str:
        """Return the subject of a new inbox."""
        # As with a real client, no two share the end of the inbox, which names their batches.
        self._server.inboxes += 1
        return f"_INBOX.{self._name}.{self._server.inboxes:010}"

    async def subscribe(self, subject: str, *, cb: Callable[[Any], Awaitable[None]], **_: Any) -> Subscription:
        """Call *cb* with every message to *subject*."""
        return self._listen(subject, cb)

    async def subscribe_direct(self, subject: str, take: Callable[[Any], bool], on_error: Any) -> Subscription:
        """Call *take* with every message to *subject*; it must accept each message."""

        def take_all(message: Arrival) -> None:
            assert take(message), f"a stray message: {message.subject} {message.reply}"

        return self._listen(subject, take_all)

    async def publish(self, subject: str, payload: bytes = b"", reply: str = "") -> None:
        """Send a message; nats-py keeps it during a reconnection, and this client drops it, which promises less."""
        if self.is_connected:
            self._pending.append(Command(self, subject, reply, {}, payload))
            self._write()

    async def request(self, subject: str, payload: bytes = b"", timeout: float = 5) -> Arrival:  # noqa: ASYNC109  (as in nats-py)
        """Return the answer."""
        answered: asyncio.Future[Arrival] = asyncio.get_running_loop().create_future()

        def take(message: Arrival) -> None:
            if not answered.done():
                answered.set_result(message)

        inbox = self._listen(f"{self.new_inbox()}.>", take)
        try:
            await self.publish(subject, payload, f"{inbox.prefix}1")
            async with asyncio.timeout(timeout):
                return await answered
        except TimeoutError:
            raise NatsTimeoutError from None
        finally:
            await inbox.unsubscribe()

    async def flush(self, timeout: float = 5) -> None:  # noqa: ASYNC109  (as in nats-py)
        """Return once the server has all earlier writes, and its answer has arrived behind its own earlier ones."""
        answered = asyncio.get_running_loop().create_future()
        self._up.send([lambda: self._down.send([partial(answered.cancel, "pong")])])
        await asyncio.wait([answered], timeout=timeout)

    async def write(self, encoded: bytes) -> None:
        """Send the commands *encoded*."""
        self._pending += [Command(self, *words) for words in parsed(encoded)]
        self._write()
        await asyncio.sleep(0)

    def _write(self) -> None:
        commands, self._pending = self._pending, []
        for command in commands:
            self._server.on_send(command)
        self._up.send([partial(self._server.take, command) for command in commands])

    def _listen(self, subject: str, take: Callable[[Any], Any]) -> Subscription:
        prefix = subject.rstrip(">*")
        self._takers[prefix] = take
        self._interest.add(prefix)
        return Subscription(self, prefix)

    def unsubscribe(self, prefix: str) -> None:
        """Stop the messages to *prefix*, once the server knows."""
        self._up.send([partial(self._interest.discard, prefix)])

    def is_known(self, epoch: int, inbox: str) -> bool:
        """Return true if the server believes that *inbox* of *epoch* has a subscriber, also shortly after a loss."""
        if self.epoch != epoch:
            return asyncio.get_running_loop().time() < self._ghost_until
        return any(inbox.startswith(prefix) for prefix in self._interest)

    def answer(
        self,
        subject: str,
        data: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        reply: str = "",
        shown: str = "",
    ) -> None:
        """Send a message to the inbox *subject*, with *shown* as its subject; it arrives later or never."""
        if self.is_connected and not self._server.loses():
            head = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items() if name != "Status")
            first = f"NATS/1.0 {headers['Status']}" if headers and "Status" in headers else "NATS/1.0"
            raw = f"{first}\r\n{head}\r\n".encode() if headers else None
            message = Arrival(shown or subject, reply, data, raw)
            self._down.send([lambda: self._receive(subject, message)])

    def _receive(self, inbox: str, message: Arrival) -> None:
        for prefix, take in self._takers.items():
            if inbox.startswith(prefix):
                if (waiting := take(message)) is not None:
                    _run_now(waiting)
                return

    def lose(self, *, keep_prefix: bool = True) -> None:
        """Lose the connection, with the bytes in flight."""
        self.is_connected = False
        self.epoch += 1
        if self._server.draw.random() < 0.5:
            self._ghost_until = asyncio.get_running_loop().time() + self._server.draw.expovariate(1.0)
        self._up.cut(keep_prefix=keep_prefix)
        self._down.cut(keep_prefix=False)
        self._interest = set(self._takers)

    def close(self) -> None:
        """Close the client for good."""
        self.lose()
        self.is_closed = True
        self._takers.clear()


class Subscription:
    """The result of `subscribe`."""

    def __init__(self, client: SimClient, prefix: str) -> None:
        self.prefix = prefix
        self._client = client

    async def unsubscribe(self) -> None:
        """Stop the deliveries."""
        self._client.unsubscribe(self.prefix)
        self._client._takers.pop(self.prefix, None)


class SimConnection:
    """A `Connection` to the simulated server."""

    def __init__(self, server: Server, name: str) -> None:
        self.last_error = ""
        self.options = ConnectOptions()
        self._server = server
        self._name = name
        self._made = 0
        self._reconnected: list[Callable[[], None]] = []
        self.current = self._new_client()
        self.is_dead = False
        self.may_ask = True
        """True if the account may use the API of JetStream."""

        if not server.is_up:
            self.current.close()

    @property
    def is_connected(self) -> bool:
        """True if the client is connected."""
        return self.current.is_connected

    @property
    def max_payload(self) -> int:
        """The largest message in bytes."""
        return self.current.max_payload

    async def room_for(self, _size: int) -> int:
        """Return the largest message in bytes, which never changes."""
        return self.current.max_payload

    async def client(self) -> SimClient:
        """Return the present client."""
        if self.current.is_closed:
            if not self._server.is_up or self.is_dead:
                await asyncio.sleep(0.1)
                raise NatsUnavailable("cannot connect")
            self.current = self._new_client()
            self.announce()
        return self.current

    def api(self, request: str) -> str:
        """Return the subject of a *request* to JetStream."""
        return f"$JS.API.{request}"

    def denial(self, subject: str) -> str | None:
        """Return the denied permission: the API, if the account may not use it."""
        return None if self.may_ask or ".STREAM." not in subject else f"permissions violation: {subject}"

    @contextmanager
    def tolerating(self, _subject: str) -> Iterator[None]:
        """Log nothing."""
        yield

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call *callback* after each reconnection."""
        self._reconnected.append(callback)

    def off_reconnect(self, callback: Callable[[], None]) -> None:
        """Undo `on_reconnect`."""
        self._reconnected.remove(callback)

    def announce(self) -> None:
        """Report a reconnection."""
        if not self.is_dead:
            for callback in tuple(self._reconnected):
                callback()

    async def cut(self, seconds: float, *, for_good: bool = False) -> None:
        """Lose the connection, and restore it after *seconds*."""
        client = self.current
        if client.is_closed or not client.is_connected:
            return
        client.lose()
        await asyncio.sleep(seconds)
        while not self._server.is_up:  # noqa: ASYNC110  (a client polls, too)
            await asyncio.sleep(0.05)
        if self.is_dead:
            return
        if for_good:
            client.close()
        else:
            client.is_connected = True
        self.announce()

    def die(self) -> None:
        """End with the process: no message is sent or delivered any more."""
        self.is_dead = True
        self.current.close()

    def _new_client(self) -> SimClient:
        self._made += 1
        return SimClient(self._server, f"{self._name}{self._made}")


def _run_now(waiting: Awaitable[None]) -> None:
    """Run a callback that never waits, as nats-py would in a task of the subscription."""
    try:
        waiting.__await__().send(None)
    except StopIteration:
        return
    raise AssertionError("the callback awaits something")
