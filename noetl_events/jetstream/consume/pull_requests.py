"""Pull requests: the open requests, the inbox for messages, and the buffer of received messages."""

from __future__ import annotations

import json
from collections import deque
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from nats.errors import Error as NatsError

from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.message import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nats.aio.subscription import Subscription

    from noetl_events.jetstream.client import DirectClient
    from noetl_events.jetstream.consumer_config import ConsumerLimits

EXPIRES: Final = 1.0
"""Seconds a request waits for messages: its end shows that an idle server answers, and a stop waits for it."""

TOO_LARGE: Final = "Exceeds MaxBytes"
"""The next message alone exceeds the requested bytes."""

NO_ROOM: Final = "Exceeded MaxWaiting"
"""The limit of waiting requests is reached; earlier requests, or those of other clients, are still served."""

_MOST_DIGITS: Final = 19
_TIMED_OUT: Final = "408"
# The consumer soon exists again: it moves to another server, or is created again.
_PASSING: Final = ("Consumer Deleted", "Leadership Change", "Server Shutdown")
_ENDED_BY_SIZE: Final = ("Batch Completed", TOO_LARGE)


def pull_request(*, batch: int, max_bytes: int, expires: float, **more: Any) -> bytes:
    """Return the body of a request for up to *batch* messages that ends after *expires* seconds."""
    return json.dumps({"batch": batch, "max_bytes": max_bytes, "expires": int(expires * 1e9)} | more).encode()


def is_an_ending(status: str, text: str) -> bool:
    """Return True if the status ends a request normally, so the next request is served."""
    return status == _TIMED_OUT or any(ending in text for ending in _ENDED_BY_SIZE)


def is_a_refusal(status: str, text: str) -> bool:
    """Return True if the next request like this one will be refused as well."""
    return status in {"400", "409"} and not any(passing in text for passing in _PASSING)


class PullRequests:
    """
    The open pull requests.

    The server serves requests in the order they were sent.  So a message counts for the oldest one, and the end of a
    request is the end of all before it: a lost message is not waited for after the end of its request.
    """

    def __init__(self) -> None:
        self._numbers = count(1)
        self._last = 0
        self._open: deque[list[int]] = deque()
        self.outstanding = 0
        """Messages requested and not received."""

    def __len__(self) -> int:
        return len(self._open)

    def add(self, messages: int) -> int:
        """Add a request for *messages* messages, and return its number."""
        number = self._last = next(self._numbers)
        self._open.append([number, messages])
        self.outstanding += messages
        return number

    def number(self, subject: str) -> int | None:
        """Return the request number at the end of *subject*, or None if no request had it."""
        text = subject.rpartition(".")[2]
        number = int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else 0
        return number if 0 < number <= self._last else None

    def is_open(self, number: int) -> bool:
        """Return True if request *number* is open, as far as is known."""
        return bool(self._open) and self._open[0][0] <= number <= self._open[-1][0]

    def receive(self) -> None:
        """Count a received message for the oldest request."""
        if self._open:
            self.outstanding -= 1
            self._open[0][1] -= 1
            if not self._open[0][1]:
                self._open.popleft()

    def end(self, number: int) -> None:
        """Remove request *number*, which the server has ended, and all before it."""
        while self._open and self._open[0][0] <= number:
            self.outstanding -= self._open.popleft()[1]

    def drop(self, number: int) -> None:
        """Remove request *number*, which the server has refused; those before it stay open."""
        for request in self._open:
            if request[0] == number:
                self.outstanding -= request[1]
                self._open.remove(request)
                return

    def clear(self) -> None:
        """Remove all requests, as after a reconnection or a change of the inbox."""
        self._open.clear()
        self.outstanding = 0


M = TypeVar("M", bound=Message)


class PullBuffer(Generic[M]):
    """
    Messages in delivery order, and their total size in bytes.

    Args:
        max_messages: most messages buffered and requested.
        max_bytes: most bytes buffered and requested; a single message of any size always passes.

    """

    def __init__(self, *, max_messages: int, max_bytes: int) -> None:
        self.messages: deque[M] = deque()
        self.bytes = 0
        self.request_bytes = max_bytes // 4
        """Most bytes of one of two open requests: with half of the buffer they add up to the maximum."""

        self._max_messages = max_messages
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return len(self.messages)

    def room(self, outstanding: int) -> int:
        """Return the number of messages to request; 0 while more than half is buffered or *outstanding*."""
        room = self._max_messages - len(self.messages) - outstanding
        return room if room >= self._max_messages // 2 and self.bytes <= self._max_bytes // 2 else 0

    def put(self, message: M) -> None:
        """Append *message*."""
        self.messages.append(message)
        self.bytes += _size(message)

    def pop(self, limit: int) -> list[M]:
        """Remove and return the first *limit* messages, or all if there are fewer."""
        popped = [self.messages.popleft() for _ in range(min(limit, len(self.messages)))]
        self.bytes -= sum(map(_size, popped))
        return popped

    def put_back(self, messages: Sequence[M]) -> None:
        """Put *messages*, which were popped last, back to the front."""
        self.messages.extendleft(reversed(messages))
        self.bytes += sum(map(_size, messages))

    def clear(self) -> None:
        """Drop all messages; they are unacknowledged, so they are delivered again."""
        self.messages.clear()
        self.bytes = 0


def _size(message: Message) -> int:
    return len(message.data) + len(message.reply) + len(message.subject)


_HEADER_ROOM: Final = 65_536
_REQUESTS: Final = 2
# A small batch limit of the consumer limits each request, so more of them are in flight.
_SMALL_REQUESTS: Final = 8


class PullInbox:
    """
    The inbox of one reader of a consumer, with a new subject each time it is opened.

    Args:
        on_message: callback for each message and each status; returns False for a foreign message.
        on_error: callback for exceptions of *on_message*.
        next_subject: subject of the requests.
        request_bytes: most bytes of one request; a single message of any size always passes.
        limits: limits that the requests observe.
        options: function that returns the other fields of a request, as arguments of `pull_request`.

    """

    def __init__(
        self,
        on_message: Callable[[Message], bool],
        on_error: Callable[[Exception], None],
        *,
        next_subject: str,
        request_bytes: int,
        limits: ConsumerLimits,
        options: Callable[[], dict[str, Any]],
    ) -> None:
        self.client: DirectClient | None = None
        """Client of the subscription; None before the inbox was opened."""

        self.requests = PullRequests()
        self.limits = limits
        """Limits that the requests observe."""

        self._on_message = on_message
        self._on_error = on_error
        self._next_subject = next_subject
        self._request_bytes = request_bytes
        self._options = options
        self._subscription: Subscription | None = None
        self._name = ""
        self._pin_request = 0
        self._is_next_large = False

    @property
    def most_requests(self) -> int:
        """Most requests that may be open at once."""
        most = _SMALL_REQUESTS if self.limits.batch else _REQUESTS
        return min(most, self.limits.waiting or most)

    async def open(self, client: DirectClient) -> None:
        """
        Subscribe to a new inbox, so messages for earlier requests are ignored.

        Raises:
            NatsUnavailable: *client* cannot subscribe now.

        """
        await self.close()
        self.requests.clear()
        self._name = client.new_inbox()
        try:
            self._subscription = await client.subscribe_direct(f"{self._name}.*", self._on_message, self._on_error)
        except (NatsError, OSError) as exc:
            raise NatsUnavailable(f"cannot subscribe: {str(exc) or type(exc).__name__}") from exc
        self.client = client

    async def close(self) -> None:
        """Unsubscribe."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            # A closed or lost client has lost its subscription too.
            with suppress(NatsError, OSError):
                await subscription.unsubscribe()

    async def request(self, batch: int) -> None:
        """
        Request up to *batch* messages, or as many as one request may.

        Raises:
            NatsUnavailable: the request was not sent.

        """
        limits = self.limits
        if self._is_next_large:
            # The message exceeds the limits of a request or of today's server, so request it alone, without limit.
            self._is_next_large = False
            await self._send(1, max_bytes=0)
            return
        largest = 0 if self.client is None else self.client.max_payload + _HEADER_ROOM
        max_bytes = max(self._request_bytes * _REQUESTS // self.most_requests, largest)
        await self._send(min(batch, limits.batch or batch), max_bytes=min(max_bytes, limits.bytes or max_bytes))

    async def extend_pin(self) -> None:
        """
        Request a message of at most one byte: the server registers the request, and sends no message.

        Raises:
            NatsUnavailable: the request was not sent.

        """
        self._pin_request = await self._send(1, max_bytes=1)

    def end(self, number: int, text: str) -> None:
        """Remove request *number*, which the server has ended with *text*."""
        self.requests.end(number)
        self._is_next_large = TOO_LARGE in text and number != self._pin_request

    async def _send(self, batch: int, *, max_bytes: int) -> int:
        if self.client is None:
            raise NatsUnavailable("cannot ask for messages: not subscribed")
        request = pull_request(batch=batch, max_bytes=max_bytes, **self._options())
        number = self.requests.add(batch)
        try:
            await self.client.publish(self._next_subject, request, reply=f"{self._name}.{number}")
        except (NatsError, OSError) as exc:
            raise NatsUnavailable(f"cannot ask for messages: {str(exc) or type(exc).__name__}") from exc
        return number
