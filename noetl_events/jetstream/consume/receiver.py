"""
The receiving half of a puller: messages for its buffer, and statuses that answer its requests.

`PullState` says if the consumer is read now, and otherwise the reason: interrupted, edited by hand, or refused.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import structlog

from noetl_events.jetstream.consume.ownership import LOST, Pin
from noetl_events.jetstream.consume.pull_requests import (
    EXPIRES,
    NO_ROOM,
    PullBuffer,
    PullInbox,
    is_a_refusal,
    is_an_ending,
)
from noetl_events.jetstream.consumer_config import ConsumerLimits
from noetl_events.jetstream.errors import NatsUnavailable, Refused
from noetl_events.jetstream.message import ack_subjects, status_of

if TYPE_CHECKING:
    from noetl_events.jetstream.client import DirectClient
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.consume.position import ConsumerPosition
    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from noetl_events.jetstream.message import Message

STARTING: Final = "starting"
PINNED: Final = "pinned"

log = structlog.get_logger()


class PullState:
    """
    The state of one puller.

    Args:
        consumer: declaration of the consumer.

    """

    def __init__(self, consumer: ConsumerDeclaration) -> None:
        self.broken = STARTING
        """Reason why the consumer has to be restarted; empty while it is read."""

        self.edited = ""
        """Reason why the consumer has to be checked; empty while it is unchanged."""

        self.refusal = ""
        """Error text of the server for refused requests; empty once it has accepted a request."""

        self._consumer = consumer
        self._failure: NatsUnavailable | None = None
        self._is_accepted = False
        self._logged = ""

    @property
    def reason(self) -> str:
        """Reason why the consumer is not read now; empty while it is read or the puller starts."""
        return self.refusal or self.edited or (self.broken if self.broken != STARTING else "")

    @property
    def is_reading(self) -> bool:
        """True if the last check found the consumer, and nothing has interrupted the reading since."""
        return not self.broken and not self.reason

    def start(self) -> None:
        """Record the start of the reading; the server has not accepted a request yet."""
        self.broken, self._is_accepted = "", False

    def accept(self) -> None:
        """Record that the server has accepted a request."""
        if not self._is_accepted:
            self._is_accepted = True
            self.refusal = self._logged = ""

    def refuse(self, status: str, text: str) -> bool:
        """Record a refused request; return True if the other open requests may still be served."""
        words, is_refusal = f"{status} {text}".strip(), is_a_refusal(status, text)
        # Each of several open requests is refused, but one check of the consumer is enough.
        is_known = is_refusal and bool(self.edited)
        if NO_ROOM in text or not (self._is_accepted or is_known):
            # A repeated refusal becomes an error, so the caller retries with back-off and not at once.
            self.refusal = words
            said = f"consumer {self._consumer.name} of stream {self._consumer.stream} refuses requests: {words}"
            self._failure = Refused(said) if is_refusal else NatsUnavailable(said)
        if is_refusal:
            self.edited, self._is_accepted = words, False
        return is_refusal

    def raise_failure(self) -> None:
        """
        Raise the refusal since the last call, if there was one.

        Raises:
            Refused: the next request will be refused as well.
            NatsUnavailable: the next request may be served.

        """
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def log_restart(self) -> None:
        """Log the reason of a restart, once for several attempts."""
        if self.broken == PINNED:
            log.info("puller.pinned", consumer=self._consumer.name)
        elif self.broken not in {STARTING, self._logged}:
            self._logged = self.broken
            log.warning("puller.restarting", consumer=self._consumer.name, reason=self.broken)

    def log_edit(self) -> None:
        """Log the reason of a check, once for several attempts."""
        if self.edited != self._logged:
            self._logged = self.edited
            log.warning("consumer.edited", consumer=self._consumer.name, reason=self.edited)


_RESTART_INTERVAL: Final = 1.0
_POLL_INTERVAL: Final = 0.25
_SILENCE: Final = 10.0
_GAP: Final = "a delivery was lost"
_BODILESS: Final = "a message came without its body"


class PullReceiver:
    """
    The receiving side of one puller: called while messages are parsed, so its callbacks never wait.

    Args:
        connection: connection to NATS; it is not closed here.
        consumer: declaration of the consumer.
        position: position of the consumer.
        max_messages: most messages buffered and requested.
        max_bytes: most bytes of headers and payloads buffered and requested; a single message of any size always
            passes.

    """

    def __init__(
        self,
        connection: Connection,
        consumer: ConsumerDeclaration,
        position: ConsumerPosition,
        *,
        max_messages: int,
        max_bytes: int,
    ) -> None:
        self.last_arrival = time.monotonic()
        """Time of the last message from the server, by `time.monotonic`."""

        self.in_doubt = 0
        """Last sequence that another client of an exclusive consumer may have processed when it died."""

        self.buffer: PullBuffer[Message] = PullBuffer(max_messages=max_messages, max_bytes=max_bytes)
        self.state = PullState(consumer)
        self.pin = Pin()
        self.arrived = asyncio.Event()
        """Set when a message arrives, or a change ends the wait for one."""

        self.inbox = PullInbox(
            self._on_message,
            self._on_error,
            next_subject=connection.api(f"CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.name}"),
            request_bytes=self.buffer.request_bytes,
            limits=ConsumerLimits(ack_wait=consumer.ack_wait, pin_ttl=consumer.pin_ttl),
            options=self._request_options,
        )
        self.is_handing_over = False
        """True while a batch is out of the buffer and not yet returned to the reader."""

        self._connection = connection
        self._is_exclusive = consumer.exclusive
        self._is_delivery = ack_subjects(consumer.stream, consumer.name).fullmatch
        self._position = position
        self._started_at = 0.0

    async def open(self, client: DirectClient) -> None:
        """
        Subscribe to a new inbox.

        Raises:
            NatsUnavailable: *client* cannot subscribe now.

        """
        await self.inbox.open(client)
        if self.pin.id:
            self.buffer.clear()

    def start(self) -> None:
        """Record that the consumer is read from now on."""
        self.state.start()
        self.last_arrival = self._started_at = time.monotonic()

    def interrupt(self, reason: str) -> None:
        """Record that the consumer has to be restarted; open requests are forgotten."""
        self.state.broken = reason
        self.inbox.requests.clear()
        self.arrived.set()

    def reconnected(self) -> None:
        """Record that the connection was restored or closed for good."""
        self.interrupt("reconnected")

    @property
    def expects(self) -> bool:
        """True if messages may arrive: requests are open, and the connection is up."""
        return self.inbox.requests.outstanding > 0 and self._connection.is_connected

    async def drain(self) -> None:
        """Return when no message can arrive, as requests cannot be cancelled and their messages need a reader."""
        while self.expects:
            self.arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_INTERVAL):
                    await self.arrived.wait()

    async def until_arrival(self) -> None:
        """Return after a message or a change; a long silence interrupts the reading."""
        quiet = time.monotonic() - self.last_arrival
        try:
            async with asyncio.timeout(max(_SILENCE - quiet, 0)):
                await self.arrived.wait()
        except TimeoutError:
            if time.monotonic() - self.last_arrival >= _SILENCE:
                self.interrupt(f"no message or heartbeat for {_SILENCE:.0f} s")

    async def fill(self) -> None:
        """
        Request as many messages as the buffer has room for.

        Raises:
            NatsUnavailable: the request was not sent.

        """
        if self._is_exclusive and not self.pin.id:
            # One message is enough to bring the pin.
            if not self.inbox.requests:
                await self._request(1)
            return
        requests = self.inbox.requests
        while len(requests) < self.inbox.most_requests and (room := self.buffer.room(requests.outstanding)):
            await self._request(room)

    async def _request(self, batch: int) -> None:
        if not self.inbox.requests:
            # Without an open request the server sends nothing, so the silence is measured from now on.
            self.last_arrival = time.monotonic()
        await self.inbox.request(batch)

    def _request_options(self) -> dict[str, Any]:
        limits = self.inbox.limits
        expires = min(EXPIRES, limits.expires or EXPIRES, limits.pin_ttl / 2 if self.pin.id else EXPIRES)
        return {"expires": expires} | (self.pin.arguments() if self._is_exclusive else {})

    def _on_message(self, message: Message) -> bool:
        if not message.reply:
            return self._on_status(message)
        if not self._is_delivery(message.reply):
            return False
        self.last_arrival = time.monotonic()
        self.state.accept()
        self.inbox.requests.receive()
        if self._is_exclusive and self.pin.is_new_in(message):
            # The restart delivers this message again, together with those before it.
            self.in_doubt = 0
            self.interrupt(PINNED)
        elif self._is_exclusive and (self.state.broken or self.pin.lacks_delivery_before(message)):
            # A delivery is missing, so restart: both messages are delivered again, in order.
            self.interrupt(self.state.broken or _GAP)
        elif not message.data and self._position.lacks_body(message):
            # The message is not acknowledged; it is delivered again after a check of the consumer.
            self.interrupt(_BODILESS)
        else:
            self.buffer.put(message)
            self.arrived.set()
        return True

    def _on_status(self, message: Message) -> bool:
        number, (status, text) = self.inbox.requests.number(message.subject), status_of(message)
        if number is None or not status:
            return False
        self.last_arrival = time.monotonic()
        if status == LOST and self._is_exclusive:
            self.pin.lose()
            self.buffer.clear()
            self.interrupt("pinned to another client")
        elif is_an_ending(status, text):
            self.state.accept()
            self.inbox.end(number, text)
            self.arrived.set()
        elif self.inbox.requests.is_open(number):
            if self.state.refuse(status, text):
                # The other open requests may still be served.
                self.inbox.requests.drop(number)
                self.arrived.set()
            else:
                self.interrupt(f"{status} {text}".strip())
        return True

    def _on_error(self, exc: Exception) -> None:
        # A bug in this code, so the state of requests and pin may be wrong.  The message is delivered again after its
        # ack wait, and others are processed in between if it fails each time.
        if time.monotonic() - self._started_at > _RESTART_INTERVAL:
            self.interrupt(f"a message could not be processed: {type(exc).__name__}: {exc}")
