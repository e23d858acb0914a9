"""
A continuous pull: messages are received while those before them are written.

nats-py's `fetch` makes a task for each message and sleeps through a server's restart.  Here one callback fills a
bounded buffer, requests go out before it is empty, the server's heartbeats prove that a request is alive, and two of
them missed mean that it is not: then, and after a reconnection, the consumer is looked up again and asked again.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Final

import structlog
from nats.errors import Error as NatsError

from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.topology import ensure_consumer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.topology import ConsumerDeclaration

_EXPIRES: Final = 30.0
_HEARTBEAT: Final = 5.0
_SILENCE: Final = 2 * _HEARTBEAT
_HEADER_ROOM: Final = 65_536

log = structlog.get_logger()


class Puller:
    """
    The one reader of a durable consumer in this process.

    Args:
        connection: to NATS; it stays open.
        consumer: as declared; created from the start of the stream when it is missing.
        max_messages: received and not yet taken, at most; another as many may be asked for.
        max_bytes: likewise, of their payloads.

    """

    def __init__(
        self,
        connection: Connection,
        consumer: ConsumerDeclaration,
        *,
        max_messages: int = 8_000,
        max_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self.consumer = consumer
        self._connection = connection
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._buffer: deque[Msg] = deque()
        self._buffered_bytes = 0
        self._outstanding = 0
        self._request_numbers = count()
        self._arrived = asyncio.Event()
        self._heard = time.monotonic()
        self._client: Client | None = None
        self._subscription: Subscription | None = None
        self._broken = "starting"
        self._stopped = False

    @property
    def buffered(self) -> Sequence[Msg]:
        """Received and not yet taken."""
        return tuple(self._buffer)

    async def pull(self, limit: int) -> list[Msg]:
        """
        Return 1 to *limit* messages in the order of delivery, waiting for the first; none once stopped and empty.

        Raises:
            NatsUnavailable: the consumer cannot be read now (its subclasses say why); pull again later.
            TopologyDrift: the consumer on the server is not the one declared.

        """
        while not self._buffer and not self._stopped:
            await self._keep_asking()
            await self._wait_for_arrival()
        batch = [self._buffer.popleft() for _ in range(min(limit, len(self._buffer)))]
        self._buffered_bytes -= sum(len(message.data) for message in batch)
        if not self._stopped and not self._broken:
            await self._keep_asking()
        return batch

    async def ack(self, messages: Iterable[Msg]) -> None:
        """Tell the server that *messages* are settled; an answer lost on the way means one more delivery."""
        await self._answer(messages, b"+ACK")

    async def in_progress(self, messages: Iterable[Msg]) -> None:
        """Start the ack wait of *messages* anew."""
        await self._answer(messages, b"+WPI")

    async def flush(self) -> None:
        """Return when the server has everything sent so far; quietly give up when it is away."""
        with suppress(NatsError, OSError, asyncio.TimeoutError, NatsUnavailable):
            await (await self._connection.client()).flush(timeout=5)

    async def stop(self) -> None:
        """Ask for nothing more and receive what is under way; `pull` returns it, then nothing."""
        if self._stopped:
            return
        self._stopped = True
        if self._subscription is not None:
            with suppress(NatsError, OSError, TimeoutError):
                async with asyncio.timeout(_HEARTBEAT):
                    await self._subscription.drain()  # type: ignore[no-untyped-call]  # nats-py leaves it untyped
        self._arrived.set()

    async def aclose(self) -> None:
        """Receive nothing more; what is in the buffer stays unacknowledged and is delivered again."""
        self._stopped = True
        if self._client is not None:
            self._connection.off_reconnect(self._on_reconnect)
            self._client = None
        if self._subscription is not None:
            with suppress(NatsError, OSError):
                await self._subscription.unsubscribe()
            self._subscription = None

    async def _keep_asking(self) -> None:
        client = await self._connection.client()
        if self._broken or client is not self._client:
            await self._begin(client)
        room = self._max_messages - len(self._buffer) - self._outstanding
        if room >= self._max_messages // 2 and self._buffered_bytes < self._max_bytes:
            await self._ask(client, room)

    async def _begin(self, client: Client) -> None:
        if self._broken != "starting":
            log.warning("puller.restarting", consumer=self.consumer.name, reason=self._broken)
        await ensure_consumer(self._connection, self.consumer)
        if client is not self._client:
            await self._subscribe(client)
        self._broken = ""
        self._outstanding = 0
        self._heard = time.monotonic()

    async def _subscribe(self, client: Client) -> None:
        if self._client is None:
            self._connection.on_reconnect(self._on_reconnect)
        inbox = client.new_inbox()
        try:
            # The server never has more under way than was asked for; a limit here would drop messages in silence.
            self._subscription = await client.subscribe(
                f"{inbox}.*", cb=self._on_message, pending_msgs_limit=0, pending_bytes_limit=0
            )
        except (NatsError, OSError) as exc:
            raise NatsUnavailable(f"cannot subscribe: {exc}") from exc
        self._client, self._inbox = client, inbox

    async def _ask(self, client: Client, batch: int) -> None:
        request = {
            "batch": batch,
            "max_bytes": max(self._max_bytes, client.max_payload + _HEADER_ROOM),
            "expires": int(_EXPIRES * 1e9),
            "idle_heartbeat": int(_HEARTBEAT * 1e9),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.consumer.stream}.{self.consumer.name}"
        reply = f"{self._inbox}.{next(self._request_numbers)}"
        try:
            await client.publish(subject, json.dumps(request).encode(), reply=reply)
        except (NatsError, OSError) as exc:
            raise NatsUnavailable(f"cannot ask for messages: {str(exc) or type(exc).__name__}") from exc
        self._outstanding += batch

    async def _wait_for_arrival(self) -> None:
        self._arrived.clear()
        if self._buffer or self._stopped or self._broken:
            return
        quiet = time.monotonic() - self._heard
        try:
            async with asyncio.timeout(max(_SILENCE - quiet, 0)):
                await self._arrived.wait()
        except TimeoutError:
            if time.monotonic() - self._heard >= _SILENCE:
                self._break(f"no heartbeat for {_SILENCE:.0f} s")

    async def _on_message(self, message: Msg) -> None:
        self._heard = time.monotonic()
        if message.reply:
            self._outstanding -= 1
            self._buffered_bytes += len(message.data)
            self._buffer.append(message)
            self._arrived.set()
        else:
            self._on_status(message)

    def _on_status(self, message: Msg) -> None:
        headers = message.headers or {}
        status, text = headers.get("Status", ""), headers.get("Description", "")
        if status == "100":
            return
        if status in ("404", "408") or "Batch Completed" in text or "Exceeds MaxBytes" in text:
            left = int(headers.get("Nats-Pending-Messages", self._outstanding))
            self._outstanding = max(self._outstanding - left, 0)
            self._arrived.set()
        else:
            self._break(f"{status} {text}".strip())

    def _on_reconnect(self) -> None:
        self._break("reconnected")

    def _break(self, reason: str) -> None:
        self._broken = reason
        self._arrived.set()

    async def _answer(self, messages: Iterable[Msg], answer: bytes) -> None:
        try:
            client = await self._connection.client()
            for message in messages:
                await client.publish(message.reply, answer)
        except (NatsError, OSError, NatsUnavailable) as exc:
            # What was not settled is delivered again, and every sink takes it twice.
            log.warning("puller.answer_lost", answer=answer.decode(), reason=str(exc) or type(exc).__name__)
