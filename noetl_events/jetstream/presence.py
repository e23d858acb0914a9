"""
Presence of replicas that share the same work, by heartbeats in plain messages.

    +<name>    heartbeat, every two seconds, and at once when a new replica is heard
    -<name>    end of the replica

Presence only decides which replica requests which partition.  The server decides which one gets it, so a wrong view
costs time, but not the order.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nats.errors import Error as NatsError

from noetl_events.jetstream.errors import NatsUnavailable

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from noetl_events.jetstream.connection import Connection

_INTERVAL: Final = 2.0
_GONE_AFTER: Final = 3 * _INTERVAL
_MOST_MEMBERS: Final = 10_000


class Presence:
    """
    The presence of one replica.

    Args:
        connection: connection to NATS; it is not closed here.
        subject: subject of the heartbeats.
        name: unique name of this replica.

    """

    def __init__(self, connection: Connection, subject: str, *, name: str) -> None:
        self.name = name
        self._connection = connection
        self._subject = subject
        self._seen: dict[str, float] = {}
        self._client: Client | None = None
        self._subscription: Subscription | None = None
        self._changed = asyncio.Event()
        self._due = asyncio.Event()

    @property
    def members(self) -> list[str]:
        """Names of all replicas, this one included, in the same order on every replica."""
        return sorted({self.name, *self._seen})

    async def changed(self) -> None:
        """Return when `members` has changed since the last return."""
        await self._changed.wait()
        self._changed.clear()

    async def run(self) -> None:
        """Send and receive heartbeats until cancelled, then announce the end of this replica."""
        try:
            while True:
                await self._announce("+")
                with suppress(TimeoutError):
                    async with asyncio.timeout(_INTERVAL):
                        await self._due.wait()
                self._due.clear()
                self._remove_expired()
        finally:
            await self._announce_end()

    async def _announce(self, sign: str) -> None:
        with suppress(NatsUnavailable, NatsError, OSError):
            client = await self._connection.client()
            if client is not self._client:
                self._subscription = await client.subscribe(self._subject, cb=self._on_message)
                self._client = client
            await client.publish(self._subject, f"{sign}{self.name}".encode())

    async def _announce_end(self) -> None:
        if self._client is not None and self._client.is_connected:
            await self._announce("-")
            with suppress(NatsError, OSError):
                if self._subscription is not None:
                    await self._subscription.unsubscribe()

    async def _on_message(self, message: Msg) -> None:
        # An exception would end the subscription, so this must not raise.
        text = message.data.decode(errors="replace")
        sign, name = text[:1], text[1:]
        if not name or name == self.name:
            return
        if sign == "-":
            self._seen.pop(name, None)
            self._changed.set()
        elif sign == "+" and len(self._seen) < _MOST_MEMBERS:
            if name not in self._seen:
                self._changed.set()
                self._due.set()
            self._seen[name] = time.monotonic()

    def _remove_expired(self) -> None:
        now = time.monotonic()
        if not self._connection.is_connected:
            # The client is disconnected, so missing heartbeats do not mean that replicas are gone.
            self._seen = dict.fromkeys(self._seen, now)
        for name, seen in list(self._seen.items()):
            if now - seen > _GONE_AFTER:
                del self._seen[name]
                self._changed.set()
