"""Pull requests: the requests under way, the inbox that messages come to, and the buffer of received messages."""

from __future__ import annotations

import json
from collections import deque
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from nats.errors import Error as NatsError

from noetl_events.jetstream.consumer_config import ConsumerLimits
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.message import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nats.aio.subscription import Subscription

    from noetl_events.jetstream.client import DirectClient
    from noetl_events.jetstream.consume.ownership import Pin
    from noetl_events.jetstream.declarations import ConsumerDeclaration

EXPIRES: Final = 1.0
"""Seconds a request waits for messages: its end is the sign of life of a quiet server, and who stops waits for it."""

TOO_LARGE: Final = "Exceeds MaxBytes"
"""The next message alone is larger than the bytes that were asked for."""

NO_ROOM: Final = "Exceeded MaxWaiting"
"""As many requests wait as may: others are served, or those that came before this one."""

_MOST_DIGITS: Final = 19
_TIMED_OUT: Final = "408"
# The consumer is there again soon, or is made anew.
_PASSING: Final = ("Consumer Deleted", "Leadership Change", "Server Shutdown")
_ENDED_BY_SIZE: Final = ("Batch Completed", TOO_LARGE)


def pull_request(*, batch: int, max_bytes: int, expires: float, **more: Any) -> bytes:
    """Return the body of a request for up to *batch* messages that ends after so many seconds."""
    return json.dumps({"batch": batch, "max_bytes": max_bytes, "expires": int(expires * 1e9)} | more).encode()


def is_an_ending(status: str, text: str) -> bool:
    """Return whether this is how a request ends after which the next one is still served."""
    return status == _TIMED_OUT or any(ending in text for ending in _ENDED_BY_SIZE)


def is_a_refusal(status: str, text: str) -> bool:
    """Return whether the next request like this one will be refused as well."""
    return status in {"400", "409"} and not any(passing in text for passing in _PASSING)


class PullRequests:
    """
    The pull requests under way.

    The server serves them in the order they were sent, so that a message counts for the oldest, and the end of one is
    the end of all before it: what was lost on the way is not waited for any longer than its request.
    """

    def __init__(self) -> None:
        self._numbers = count(1)
        self._last = 0
        self._open: deque[list[int]] = deque()
        self.outstanding = 0
        """Messages asked for and not received."""

    def __len__(self) -> int:
        return len(self._open)

    def add(self, messages: int) -> int:
        """Note a request for so many *messages*, and return its number."""
        number = self._last = next(self._numbers)
        self._open.append([number, messages])
        self.outstanding += messages
        return number

    def number(self, subject: str) -> int | None:
        """Return the number at the end of *subject*, or None if no request ever had it."""
        text = subject.rpartition(".")[2]
        number = int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else 0
        return number if 0 < number <= self._last else None

    def is_open(self, number: int) -> bool:
        """Return whether request *number* is under way, as far as we know."""
        return bool(self._open) and self._open[0][0] <= number <= self._open[-1][0]

    def receive(self) -> None:
        """Note that a message came."""
        if self._open:
            self.outstanding -= 1
            self._open[0][1] -= 1
            if not self._open[0][1]:
                self._open.popleft()

    def end(self, number: int) -> None:
        """Note that the server has ended request *number*."""
        while self._open and self._open[0][0] <= number:
            self.outstanding -= self._open.popleft()[1]

    def drop(self, number: int) -> None:
        """Note that the server has refused request *number*; those before it are still under way."""
        for request in self._open:
            if request[0] == number:
                self.outstanding -= request[1]
                self._open.remove(request)
                return

    def forget(self) -> None:
        """Note that the server knows of none: a new connection, or another inbox."""
        self._open.clear()
        self.outstanding = 0


M = TypeVar("M", bound=Message)


class PullBuffer(Generic[M]):
    """Messages in the order of their delivery, and how many bytes they are."""

    def __init__(self) -> None:
        self.messages: deque[M] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.messages)

    def put(self, message: M) -> None:
        """Add *message*."""
        self.messages.append(message)
        self.bytes += _size(message)

    def take(self, limit: int) -> list[M]:
        """Return the first *limit* messages, or all there are."""
        taken = [self.messages.popleft() for _ in range(min(limit, len(self.messages)))]
        self.bytes -= sum(map(_size, taken))
        return taken

    def put_back(self, messages: Sequence[M]) -> None:
        """Have *messages*, which were taken last, before all others again."""
        self.messages.extendleft(reversed(messages))
        self.bytes += sum(map(_size, messages))

    def clear(self) -> None:
        """Drop everything; unacknowledged, it is delivered again."""
        self.messages.clear()
        self.bytes = 0


def _size(message: Message) -> int:
    return len(message.data) + len(message.reply) + len(message.subject)


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
