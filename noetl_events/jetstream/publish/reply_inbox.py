"""
The reply inbox of a publisher: one subscription for all answers.

nats-py's `request` costs a future and a task for each message, and its `publish_async` never resolves if the answer is
an error or was lost with the connection.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol, Self

from nats.errors import Error as NatsError

from noetl_events.jetstream.errors import ConnectionIsClosed, NatsUnavailable, PermissionDenied
from noetl_events.jetstream.publish.replies import read_reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from noetl_events.jetstream.client import DirectClient
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.publish.expected_stream import ExpectedStream
    from noetl_events.jetstream.publish.replies import Reply

SILENCE: Final = 5.0
"""Seconds without an answer after which the cause is looked up, and an exchange usually fails."""

_CHECK_INTERVAL: Final = 0.25
_QUIET_INTERVAL: Final = 0.5
_DOMAIN_GRACE: Final = 0.25
_MOST_UNPROVEN: Final = 20_000


class Addressed(Protocol):
    """A message with a subject."""

    @property
    def subject(self) -> str:
        """Subject the message was published to."""


class ReplyInbox:
    """
    The reply inbox of one publisher.

    Args:
        connection: connection to NATS; the inbox does not close it.
        expected: stream that has to answer.

    """

    def __init__(self, connection: Connection, expected: ExpectedStream) -> None:
        self.expected = expected
        self.lookup_after = SILENCE
        """Seconds without an answer after which the cause is looked up."""

        self._connection = connection
        self._lookup_task: asyncio.Task[None] | None = None
        self._client: DirectClient | None = None
        self._subscription: Subscription | None = None
        self._prefix = ""
        self._numbers = count(1)
        self._exchanges: dict[str, Exchange] = {}

    async def open(self) -> DirectClient:
        """
        Return a client that is connected and subscribed to this inbox.

        Raises:
            NatsUnavailable: no client is connected at the moment.

        """
        client = await self._connection.client()
        if not client.is_connected:
            raise NatsUnavailable(f"not connected: {self._connection.last_error or 'reconnecting'}")
        if client is not self._client or self._subscription is None:
            await self._subscribe(client)
        self.expected.record_server(client.home)
        return client

    def exchange(self, on_reply: Callable[[str, Reply], None]) -> Exchange:
        """Return a new exchange with its own token; *on_reply* receives the subject after the token, and the answer."""
        # The serial part of a NUID starts at a random number below 62^10, unique enough and shorter in each message.
        exchange = Exchange(self, f"{self._prefix}.", f"{self._prefix[-10:]}{next(self._numbers)}", on_reply)
        self._exchanges[exchange.token] = exchange
        return exchange

    def discard(self, exchange: Exchange) -> None:
        """Discard later answers for *exchange*."""
        self._exchanges.pop(exchange.token, None)

    def look_up(self, subject: str, reply: Reply | None = None) -> bool:
        """
        Start a look-up of the stream that takes *subject*, and return True if a look-up is in progress.

        The caller looks up because another stream has answered with *reply*, or because no stream answers.  Answers
        that could not be judged before are judged again after the look-up.
        """
        if self._lookup_task is None and self.expected.is_lookup_due:
            self._lookup_task = asyncio.create_task(self._look_up(subject, reply))
        return self._lookup_task is not None

    def require_health(self, subjects: Iterable[str]) -> None:
        """
        Raise the reason for missing answers, if there is one.

        Raises:
            PermissionDenied: the account may not publish to one of *subjects*, or not subscribe to the answers.
            NatsUnavailable: the connection is lost.

        """
        if denial := self._connection.denial(self._prefix):
            # The server reports a denial once per subscription, so subscribe again before the next attempt.
            self._subscription = None
            raise PermissionDenied(denial)
        for subject in subjects:
            if denial := self._connection.denial(subject):
                raise PermissionDenied(denial)
        if self._client is None or not self._client.is_connected:
            raise NatsUnavailable(f"connection lost: {self._connection.last_error or 'reconnecting'}")

    async def aclose(self) -> None:
        """Unsubscribe from the inbox."""
        if self._lookup_task is not None:
            self._lookup_task.cancel()
            await asyncio.wait([self._lookup_task])
        if self._client is not None:
            self._connection.off_reconnect(self._on_reconnect)
            self._client = None
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            # A closed or reconnecting client has lost the subscription, or loses it with the connection.
            with suppress(NatsError, OSError):
                await subscription.unsubscribe()

    async def _look_up(self, subject: str, reply: Reply | None) -> None:
        try:
            # The connection may have been closed meanwhile; each publish raises that error itself.
            with suppress(ConnectionIsClosed):
                await self.expected.look_up(subject, reply)
        finally:
            self._lookup_task = None
            for exchange in tuple(self._exchanges.values()):
                exchange.judge_again()

    async def _subscribe(self, client: DirectClient) -> None:
        prefix = client.new_inbox()
        try:
            self._subscription = await client.subscribe(
                f"{prefix}.>", cb=self._on_message, pending_msgs_limit=0, pending_bytes_limit=0
            )
        except (NatsError, OSError) as exc:
            raise NatsUnavailable(f"cannot subscribe: {str(exc) or type(exc).__name__}") from exc
        if self._client is None:
            self._connection.on_reconnect(self._on_reconnect)
        self._client, self._prefix = client, prefix

    async def _on_message(self, message: Msg) -> None:
        token, _, rest = message.subject[len(self._prefix) + 1 :].partition(".")
        if exchange := self._exchanges.get(token):
            exchange.receive(rest, read_reply(message))

    def _on_reconnect(self) -> None:
        for exchange in self._exchanges.values():
            exchange.close("the connection was lost before the answer")


class Exchange:
    """Bursts of messages, and the answers to them."""

    def __init__(self, inbox: ReplyInbox, prefix: str, token: str, on_reply: Callable[[str, Reply], None]) -> None:
        self.token = token
        self.reply_to = f"{prefix}{token}"
        self.subject = ""
        """Subject of a message in the exchange."""

        self._inbox = inbox
        self._on_reply = on_reply
        self._closed_because = ""
        self._unproven: list[tuple[str, Reply]] = []
        self._frame = -1
        self._wakeup: asyncio.Future[bool] | None = None
        self._answered_at = time.monotonic()
        self._quiet_since = self._answered_at

    @property
    def is_closed(self) -> bool:
        """True if no further answer can arrive."""
        return bool(self._closed_because)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._inbox.discard(self)

    def receive(self, rest: str, reply: Reply) -> None:
        """Process an answer, if it counts."""
        if reply.type:
            self._receive_frame(reply)
        elif self._inbox.expected.counts(reply):
            if self._inbox.expected.is_ambiguous(reply):
                asyncio.get_running_loop().call_later(_DOMAIN_GRACE, self._accept, rest, reply)
            else:
                self._accept(rest, reply)
        elif reply.stream and len(self._unproven) < _MOST_UNPROVEN and self._inbox.look_up(self.subject, reply):
            self._unproven.append((rest, reply))
        else:
            self._inbox.expected.record_foreign(reply)

    def _accept(self, rest: str, reply: Reply) -> None:
        self._answered_at = time.monotonic()
        self._on_reply(rest, reply)
        self._wake(is_change=True)

    def judge_again(self) -> None:
        """Judge again the answers that could not be judged before, and process those that count."""
        self._wake(is_change=True)
        unproven, self._unproven = self._unproven, []
        for rest, reply in unproven:
            if self._inbox.expected.counts(reply):
                self.receive(rest, reply)
            else:
                self._inbox.expected.record_foreign(reply)

    def _receive_frame(self, reply: Reply) -> None:
        # An ack of a later sequence proves that the stream answers; a frame does not name its stream.
        if reply.type == "ack" and reply.seq > self._frame:
            self._frame = reply.seq
            self._answered_at = time.monotonic()

    def close(self, reason: str) -> None:
        """End the exchange: no further answer can arrive."""
        self._closed_because = reason
        self._wake(is_change=True)

    async def until(
        self,
        is_met: Callable[[], bool],
        messages: Iterable[Addressed],
        deadline: float,
        *,
        silence: float = SILENCE,
        on_quiet: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """
        Return when the answers make *is_met* true.

        Args:
            is_met: condition, checked after each answer.
            messages: messages that were sent.
            deadline: latest time, of `time.monotonic`.
            silence: seconds without an answer after which the wait fails, counted from the call or the last answer.
            on_quiet: callback for each half second without an answer.

        Raises:
            PermissionDenied: the subject of one of *messages* is denied to the account.
            NatsUnavailable: the connection is lost, *deadline* or *silence* has passed, or no answer can arrive.

        """
        began = self._quiet_since = time.monotonic()
        while not is_met():
            if self._closed_because:
                raise NatsUnavailable(self._closed_because)
            now, answered_at = time.monotonic(), max(began, self._answered_at)
            limit = min(deadline, answered_at + silence)
            if now >= limit:
                reason = self._inbox.expected.explain_silence(self.subject, now - answered_at, is_untaken=False)
                raise NatsUnavailable(reason)
            if not await self._wait_for_change(min(_CHECK_INTERVAL, limit - now)):
                self._inbox.require_health({message.subject for message in messages})
                if now - answered_at >= self._inbox.lookup_after:
                    self._look_up_cause(began)
                if on_quiet is not None and now - max(answered_at, self._quiet_since) >= _QUIET_INTERVAL:
                    self._quiet_since = now
                    await on_quiet()

    def _look_up_cause(self, began: float) -> None:
        expected = self._inbox.expected
        if expected.problem is not None and expected.problem.found_at > began:
            raise NatsUnavailable(expected.problem.text)
        expected.record_silence(began)
        self._inbox.look_up(self.subject)

    async def _wait_for_change(self, seconds: float) -> bool:
        # A timer and a future are used, because asyncio's own waits add a tenth to the round trip of one message.
        loop = asyncio.get_running_loop()
        self._wakeup = loop.create_future()
        timer = loop.call_later(seconds, partial(self._wake, is_change=False))
        try:
            return await self._wakeup
        finally:
            timer.cancel()

    def _wake(self, *, is_change: bool) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(is_change)
