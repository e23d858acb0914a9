"""Max-deliveries advisories: the server publishes one for each message that a consumer stops delivering."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
from nats.errors import Error as NatsError

from noetl_events.jetstream.errors import NatsUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from noetl_events.jetstream.connection import Connection

_MAX_WAITING: Final = 10_000
_CHECK_INTERVAL: Final = 5.0

log = structlog.get_logger()


class MaxDeliveries(msgspec.Struct, frozen=True):
    """An advisory: a consumer delivered a message the allowed number of times, without an acknowledgement."""

    stream: str
    consumer: str
    stream_seq: int
    deliveries: int
    domain: str = ""


_decode = msgspec.json.Decoder(MaxDeliveries).decode


class Advisories:
    """
    The advisories about some consumers of a stream, or about all of them.

    The server does not store advisories: they are lost while no replica subscribes, or while 10,000 are waiting here.

    Args:
        connection: connection to NATS; it is not closed here.
        stream: name of the stream.
        group: queue group, one member of which receives each advisory of any consumer; empty for those of *own* only.
        own: names of consumers with advisories for every replica.

    """

    def __init__(self, connection: Connection, stream: str, *, group: str = "", own: Iterable[str] = ()) -> None:
        head = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}"
        self.subject = f"{head}.*"
        self._subjects = [(f"{head}.{name}", "") for name in own] + ([(self.subject, group)] if group else [])
        self._connection = connection
        self._waiting: deque[MaxDeliveries] = deque()
        self._arrived = asyncio.Event()
        self._client: Client | None = None
        self._subscriptions: list[Subscription] = []

    @property
    def waiting(self) -> int:
        """Number of advisories received and not yet dropped."""
        return len(self._waiting)

    async def first(self) -> MaxDeliveries:
        """
        Return the first waiting advisory, or wait for one; it remains the first until it is dropped.

        Raises:
            NatsUnavailable: the subscription is not possible now; call again later.

        """
        while not self._waiting:
            self._arrived.clear()
            await self._subscribe()
            with suppress(TimeoutError):
                # Repeat this from time to time: `client` replaces a client that was closed for good.
                async with asyncio.timeout(_CHECK_INTERVAL):
                    await self._arrived.wait()
        return self._waiting[0]

    def drop_first(self) -> None:
        """Drop the first advisory, which is processed."""
        self._waiting.popleft()

    async def aclose(self) -> None:
        """Unsubscribe."""
        subscriptions, self._subscriptions, self._client = self._subscriptions, [], None
        for subscription in subscriptions:
            with suppress(NatsError, OSError):
                await subscription.unsubscribe()

    async def _subscribe(self) -> None:
        client = await self._connection.client()
        if client is self._client:
            return
        try:
            self._subscriptions = [
                await client.subscribe(subject, queue=group, cb=self._on_message) for subject, group in self._subjects
            ]
            self._client = client
            # The answer to the flush proves that the server knows the subscriptions.
            await client.flush(timeout=5)
        except (NatsError, OSError) as exc:
            raise NatsUnavailable(f"cannot listen on {self.subject}: {str(exc) or type(exc).__name__}") from exc

    async def _on_message(self, message: Msg) -> None:
        # nats-py calls this in its own task, so this must not raise.
        if len(self._waiting) >= _MAX_WAITING:
            log.error("advisories.dropped", subject=message.subject, waiting=len(self._waiting))
            return
        try:
            advisory = _decode(message.data)
            # Advisories cross domains, and a stream of another domain may have the same name.
            if advisory.domain == (self._connection.options.domain or advisory.domain):
                self._waiting.append(advisory)
        except ValueError as exc:
            log.error("advisories.unreadable", subject=message.subject, reason=str(exc))
        self._arrived.set()
