"""Where the messages of a consumer come to, and how they are asked for."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nats.errors import Error as NatsError

from noetl_events.jetstream.consumer_config import ConsumerLimits
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.pull_requests import EXPIRES, TOO_LARGE, PullRequests, pull_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.subscription import Subscription

    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from noetl_events.jetstream.delivery import Message
    from noetl_events.jetstream.direct_client import DirectClient
    from noetl_events.jetstream.pin import Pin

_HEADER_ROOM: Final = 65_536
_REQUESTS: Final = 2
# Where each may ask for few, more of them are under way.
_SMALL_REQUESTS: Final = 8


class PullInbox:
    """
    The inbox of one puller, a new one each time it is opened.

    Args:
        consumer: that is asked.
        pin: on it, if we have it.
        take: takes each message that comes, and what the server says; returns False for a stray one.
        on_error: is given what *take* raises.
        next_subject: of the requests for messages.
        request_bytes: one request brings at most; but one message of any size always passes.

    """

    def __init__(
        self,
        consumer: ConsumerDeclaration,
        pin: Pin,
        take: Callable[[Message], bool],
        on_error: Callable[[Exception], None],
        *,
        next_subject: str,
        request_bytes: int,
    ) -> None:
        self.client: DirectClient | None = None
        """Whose inbox it is; None before it was opened."""

        self.requests = PullRequests()
        self.limits = ConsumerLimits(ack_wait=consumer.ack_wait, pin_ttl=consumer.pin_ttl)
        """What the requests keep to."""

        self._consumer = consumer
        self._pin = pin
        self._take = take
        self._on_error = on_error
        self._next_subject = next_subject
        self._request_bytes = request_bytes
        self._subscription: Subscription | None = None
        self._name = ""
        self._sign_of_life = 0
        self._is_next_large = False

    @property
    def most_requests(self) -> int:
        """Requests that may be under way at once."""
        most = _SMALL_REQUESTS if self.limits.batch else _REQUESTS
        return min(most, self.limits.waiting or most)

    async def open(self, client: DirectClient) -> None:
        """
        Listen to a new inbox: what still comes to the old one belongs to what was before.

        Raises:
            NatsUnavailable: *client* cannot subscribe now.

        """
        await self.close()
        self.requests.forget()
        self._name = client.new_inbox()
        try:
            self._subscription = await client.subscribe_direct(f"{self._name}.*", self._take, self._on_error)
        except (NatsError, OSError) as exc:
            raise NatsUnavailable(f"cannot subscribe: {str(exc) or type(exc).__name__}") from exc
        self.client = client

    async def close(self) -> None:
        """Listen no more."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            # Of a client that is closed or gone, the server has forgotten it.
            with suppress(NatsError, OSError):
                await subscription.unsubscribe()

    async def ask(self, batch: int) -> None:
        """
        Ask for up to *batch* messages, or for as many as one request may bring.

        Raises:
            NatsUnavailable: nothing was asked.

        """
        limits = self.limits
        if self._is_next_large:
            # Stored while the server took larger messages than it takes now, or larger than one request may bring.
            self._is_next_large = False
            await self._send(1, max_bytes=0)
            return
        largest = 0 if self.client is None else self.client.max_payload + _HEADER_ROOM
        max_bytes = max(self._request_bytes * _REQUESTS // self.most_requests, largest)
        await self._send(min(batch, limits.batch or batch), max_bytes=min(max_bytes, limits.bytes or max_bytes))

    async def show_life(self) -> None:
        """
        Ask for a message no larger than a byte: the server notes that we are there, and sends none.

        Raises:
            NatsUnavailable: nothing was asked.

        """
        self._sign_of_life = await self._send(1, max_bytes=1)

    def end(self, number: int, text: str) -> None:
        """Note that the server has ended request *number*, with this *text*."""
        self.requests.end(number)
        self._is_next_large = TOO_LARGE in text and number != self._sign_of_life

    async def _send(self, batch: int, *, max_bytes: int) -> int:
        if self.client is None:
            raise NatsUnavailable("cannot ask for messages: not subscribed")
        pinned = self._pin.arguments() if self._consumer.exclusive else {}
        request = pull_request(batch=batch, max_bytes=max_bytes, expires=self._expires, **pinned)
        number = self.requests.add(batch)
        try:
            await self.client.publish(self._next_subject, request, reply=f"{self._name}.{number}")
        except (NatsError, OSError) as exc:
            raise NatsUnavailable(f"cannot ask for messages: {str(exc) or type(exc).__name__}") from exc
        return number

    @property
    def _expires(self) -> float:
        expires = min(EXPIRES, self.limits.expires or EXPIRES)
        return min(expires, self.limits.pin_ttl / 2) if self._pin.id else expires
