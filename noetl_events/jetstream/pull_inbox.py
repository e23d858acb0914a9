"""Where the messages of a consumer come to, and how they are asked for."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nats.errors import Error as NatsError

from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.pull_requests import EXPIRES, PullRequests, pull_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.subscription import Subscription

    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from noetl_events.jetstream.delivery import Message
    from noetl_events.jetstream.direct_client import DirectClient
    from noetl_events.jetstream.pin import Pin

_HEADER_ROOM: Final = 65_536


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
        self._consumer = consumer
        self._pin = pin
        self._take = take
        self._on_error = on_error
        self._next_subject = next_subject
        self._request_bytes = request_bytes
        self._subscription: Subscription | None = None
        self._name = ""

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

    async def ask(self, batch: int, *, max_bytes: int = 0) -> None:
        """
        Ask for up to *batch* messages, of *max_bytes* together if that is given.

        Raises:
            NatsUnavailable: nothing was asked.

        """
        if self.client is None:
            raise NatsUnavailable("cannot ask for messages: not subscribed")
        consumer = self._consumer
        request = pull_request(
            batch=batch,
            max_bytes=max_bytes or max(self._request_bytes, self.client.max_payload + _HEADER_ROOM),
            expires=min(EXPIRES, consumer.pin_ttl / 2) if self._pin.id else EXPIRES,
            **(self._pin.arguments() if consumer.exclusive else {}),
        )
        try:
            await self.client.publish(self._next_subject, request, reply=f"{self._name}.{self.requests.add(batch)}")
        except (NatsError, OSError) as exc:
            raise NatsUnavailable(f"cannot ask for messages: {str(exc) or type(exc).__name__}") from exc
