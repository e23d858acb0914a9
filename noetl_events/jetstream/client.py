"""
nats-py's client, and every private name of nats-py that this project uses; no other file uses one.

    used for                                 private names                        without them
    ---------------------------------------  -----------------------------------  ---------------------------
    messages straight from the parser        _process_msg, _subs, _id of a        a queue and a task for each
                                             subscription
    many messages in one write               _send_command, _flush_pending        a call of `publish` for each
    a reading task that ended on an error    _read_loop, _reading_task            detected by pings, in 15 s
    the answer to a ping without a waiting   _process_pong, _pongs                detected by pings, in 15 s
    flush
    the own transport: see `transport`       _transport, _connect_to_server       nats-py's own, never for TLS
    an error that nats-py's reconnection     _process_connect_init                the reconnection ends
    does not expect
    the message size limit of an account     _process_info, _max_payload          the limit of the server counts
    a close during a reconnection            _close, _reconnection_task           the client may connect again
                                                                                  without its subscriptions

nats-py 2.16 reads the headers of each message into a dictionary, puts the message into a queue and wakes a task to take
it out: a third of the cost of receiving it.  Its `publish` checks the subject, builds the headers and awaits for each
message: half of the cost of a batch.  No public name avoids either, so the private names are used.  They are checked
once: if another release of nats-py lacks them or has other parameters, the public way is used, with a warning.

Callbacks run in the task that reads the connection, and an exception there would end that task.  So an exception of a
callback is counted, logged once for each kind, and passed to the subscription's owner; reading continues.
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections import Counter
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import structlog
from nats.aio.client import Client
from nats.errors import ConnectionReconnectingError
from nats.errors import Error as NatsError

from noetl_events.jetstream.message import Arrival, read_headers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from noetl_events.jetstream.connect.transport import ServerTransport
    from noetl_events.jetstream.message import Message

    OnMessage = Callable[[Message], bool]
    OnError = Callable[[Exception], None]

NATS_PY: Final = "nats-py>=2.15,<2.17"
"""Supported and tested releases of nats-py."""

MESSAGES: Final = "messages from the parser"
WRITES: Final = "many messages in one write"
READING: Final = "a reading loop that ended"
PINGS: Final = "answers to pings"
TRANSPORT: Final = "a transport"
CONNECTING: Final = "errors while connecting"
LIMIT: Final = "the limit of an account"
CLOSING: Final = "a close during a reconnection"

_METHODS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    MESSAGES: {"_process_msg": ("sid", "subject", "reply", "data", "headers")},
    WRITES: {"_send_command": ("cmd", "priority"), "_flush_pending": ("force_flush",)},
    READING: {"_read_loop": ()},
    PINGS: {"_process_pong": ()},
    TRANSPORT: {"_connect_to_server": ("s",)},
    CONNECTING: {"_process_connect_init": ()},
    LIMIT: {"_process_info": ("info", "initial_connection")},
    CLOSING: {"_close": ("status", "do_cbs")},
}
_ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    MESSAGES: ("_subs",),
    READING: ("_reading_task",),
    PINGS: ("_pongs",),
    TRANSPORT: ("_transport",),
    LIMIT: ("_max_payload",),
    CLOSING: ("_reconnection_task",),
}
_SHOWN: Final = 100
_CANCEL_AGAIN: Final = 0.1

log = structlog.get_logger()


@cache
def missing_hooks() -> frozenset[str]:
    """Return the uses for which the installed nats-py lacks a private name, or has one with other parameters."""
    client = Client()
    missing = {
        use
        for use, methods in _METHODS.items()
        if any(_parameters(name) != wanted for name, wanted in methods.items())
        or not all(hasattr(client, name) for name in _ATTRIBUTES.get(use, ()))
    }
    if missing:
        log.warning(
            "client.nats_py_differs",
            missing=sorted(missing),
            remedy=f"install {NATS_PY}; until then publishing and reading are slower",
        )
    return frozenset(missing)


def _parameters(name: str) -> tuple[str, ...] | None:
    method = getattr(Client, name, None)
    return tuple(inspect.signature(method).parameters)[1:] if inspect.iscoroutinefunction(method) else None


class Home(msgspec.Struct, frozen=True):
    """
    The place of a client in the NATS network, as its server reported it.

    Args:
        cluster: name of the server's cluster.
        domain: domain of its JetStream, "" without a domain; None if the server has no JetStream.

    """

    cluster: str = ""
    domain: str | None = None


class _Subscriber(NamedTuple):
    on_message: OnMessage
    on_error: OnError


class DirectClient(Client):
    """
    A nats-py client with subscriptions that need no queue, and requests that end with the connection.

    Args:
        transport: transport for reading and writing.
        refresh_limit: function that reads the server's current limit and sets `max_payload`; it must not raise.

    """

    def __init__(self, transport: ServerTransport, refresh_limit: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self.transport = transport
        """Transport for reading and writing."""

        self.dropped: Counter[str] = Counter()
        """Dropped messages by kind: "stray", or the class name of an exception of their callback."""

        self._missing = missing_hooks()
        for name in chain.from_iterable(_METHODS[use] for use in self._missing):
            if hasattr(Client, name):
                # The method that overrides it here was written for other parameters, so restore nats-py's own.
                setattr(self, name, getattr(Client, name).__get__(self))
        self._refresh_limit = refresh_limit
        self._subscribers: dict[int, _Subscriber] = {}
        self._lost: asyncio.Future[None] | None = None
        if TRANSPORT not in self._missing:
            self._transport = transport

    @property
    def home(self) -> Home:
        """Place of the server the client is connected to."""
        info = getattr(self, "_server_info", {})
        return Home(info.get("cluster", ""), info.get("domain", "") if info.get("jetstream") else None)

    def set_max_payload(self, max_payload: int) -> None:
        """Set the most bytes of a message that the server accepts now."""
        self._max_payload = max_payload

    async def publish(self, subject: str, payload: bytes = b"", *arguments: Any, **options: Any) -> None:
        """
        Publish as nats-py does, with a refreshed limit for a large *payload*; requests go through this method too.

        Raises:
            nats.errors.Error: as nats-py.

        """
        if len(payload) > self.max_payload:
            await self._refresh_limit()
        await super().publish(subject, payload, *arguments, **options)

    def fail_requests(self) -> None:
        """Fail the open requests: the connection is lost, and their answers with it."""
        if self._lost is not None:
            self._lost.set_result(None)
            self._lost = None

    async def request(self, subject: str, *arguments: Any, **options: Any) -> Msg:
        """
        Return the answer, as nats-py does; its JetStream methods use this method too.

        Raises:
            ConnectionReconnectingError: the connection was lost; nats-py would wait until the timeout.
            nats.errors.Error: as nats-py.

        """
        lost = self._lost = self._lost or asyncio.get_running_loop().create_future()
        asked = asyncio.ensure_future(super().request(subject, *arguments, **options))
        try:
            await asyncio.wait([asked, lost], return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                raise ConnectionReconnectingError
            return asked.result()
        finally:
            asked.cancel()

    async def subscribe_direct(self, subject: str, on_message: OnMessage, on_error: OnError) -> Subscription:
        """
        Call *on_message* with each message of *subject*, in order, in the task that reads the connection.

        *on_message* returns True if it expects the message.  Other messages are strays: counted, logged once and
        dropped.  Exceptions of *on_message* are counted, logged once, and passed to *on_error*, which must not raise.

        Raises:
            nats.errors.Error: as `subscribe`.

        """
        subscriber = _Subscriber(on_message, on_error)

        async def on_queued(message: Any) -> None:
            self._deliver(subscriber, message)

        # The subscriber requests no more than it has room for; a limit here would drop messages without notice.
        subscription = await self.subscribe(subject, cb=on_queued, pending_msgs_limit=0, pending_bytes_limit=0)
        if MESSAGES not in self._missing:
            self._subscribers = {sid: subscriber for sid, subscriber in self._subscribers.items() if sid in self._subs}
            self._subscribers[subscription._id] = subscriber  # noqa: SLF001  (the number the parser passes to `_process_msg`)
        return subscription

    async def flush(self, timeout: int = 10) -> None:  # noqa: ASYNC109  (as nats-py has it)
        """
        Return once the server has read everything written before, in at most twice *timeout* seconds.

        nats-py writes a ping at once, before the commands that wait for its writing task.  The answer to the first ping
        comes after that task has written them, so the second ping follows them.

        Raises:
            nats.errors.Error: as nats-py; the written data may still be in transit.

        """
        await super().flush(timeout)
        await super().flush(timeout)

    async def write(self, encoded: bytes) -> None:
        """
        Write the commands *encoded* to the socket, in one write.

        Raises:
            nats.errors.Error: as `publish`.

        """
        if WRITES in self._missing:
            for subject, reply, headers, payload in _read_commands(encoded):
                await self.publish(subject, payload, reply=reply, headers=headers)
            return
        await self._send_command(encoded)
        # This wakes the writing task, as nats-py's own publish does.
        await self._flush_pending()

    def _deliver(self, subscriber: _Subscriber, message: Message) -> None:
        try:
            if subscriber.on_message(message):
                return
        except Exception as exc:  # noqa: BLE001  (an exception would end the task that reads the connection)
            self._drop(type(exc).__name__, message.subject, message.reply, exc)
            subscriber.on_error(exc)
        else:
            self._drop("stray", message.subject, message.reply)

    def _drop(self, kind: str, subject: str, reply: str, exc: Exception | None = None) -> None:
        self.dropped[kind] += 1
        if self.dropped[kind] == 1:
            where = {"error": str(exc), "where": _place_of(exc)} if exc else {}
            log.warning("client.message_dropped", kind=kind, subject=subject[:_SHOWN], reply=reply[:_SHOWN], **where)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:  # noqa: PLR0917  (as nats-py has it)
        try:
            subscriber = self._subscribers.get(sid)
            if subscriber is None or sid not in self._subs:
                await super()._process_msg(sid, subject, reply, data, headers)
                return
            self.stats["in_msgs"] += 1
            self.stats["in_bytes"] += len(data)
            message = Arrival(_text(subject), _text(reply), data, headers)
        except Exception as exc:  # noqa: BLE001  (nats-py's task would end on a subject that is no UTF-8)
            self._drop(type(exc).__name__, repr(subject), repr(reply), exc)
        else:
            self._deliver(subscriber, message)

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except (NatsError, OSError, TimeoutError):
            raise
        except Exception as exc:
            # nats-py's reconnection would end on this error without a message.
            raise NatsError(f"{type(exc).__name__}: {exc}") from exc

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002  (as nats-py has it)
        await super()._process_info(info, initial_connection)
        # The limit of an account comes in the second INFO, from which nats-py reads only the servers.
        self._max_payload = info.get("max_payload", self._max_payload)

    async def _process_pong(self) -> None:
        if self._pongs and self._pongs[0].done():
            # The flush was cancelled or has timed out: setting its result would raise, and end nats-py's reading task.
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _close(self, status: int, do_cbs: bool = True) -> None:  # noqa: FBT001, FBT002  (as nats-py has it)
        reconnecting = self._reconnection_task
        if reconnecting is not None and reconnecting is not asyncio.current_task():
            # The task may outlast nats-py's own cancellation, and connect without subscriptions: `_close` removes them.
            await end_task(reconnecting)
        await super()._close(status, do_cbs)

    async def _read_loop(self) -> None:
        await super()._read_loop()
        task = asyncio.current_task()
        if task is not None and task is self._reading_task and self.is_connected and not task.cancelling():
            # An exception has ended the task, and nats-py still believes to be connected.
            log.error("client.reading_ended", remedy="none needed: the client reconnects")
            await self.force_reconnect()


async def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel *task* until it has ended: nats-py swallows a cancellation that comes while it flushes."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_AGAIN)


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        # NATS allows any bytes in a subject, and the stream may hold an event with such a subject.
        return raw.decode(errors="replace")


def _place_of(exc: Exception) -> str:
    frames = traceback.extract_tb(exc.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _read_commands(encoded: bytes) -> Iterator[tuple[str, str, dict[str, str] | None, bytes]]:
    """Yield subject, reply, headers and payload of each command in *encoded*, as the publisher encodes them."""
    start = 0
    while start < len(encoded):
        end = encoded.index(b"\r\n", start)
        verb, subject, *reply, size = encoded[start:end].decode().split(" ")
        head_size = int(reply.pop()) if verb == "HPUB" else 0
        head, body = end + 2, end + 2 + head_size
        start = end + 2 + int(size) + 2
        headers = read_headers(encoded[head:body]) if head_size else None
        yield subject, reply[0] if reply else "", headers, encoded[body : start - 2]
