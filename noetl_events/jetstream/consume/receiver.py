"""
The receiving half of a puller: messages into its buffer, and the statuses that answer its requests.

Its state tells whether the consumer is read now, and otherwise the reason: interrupted, edited by hand, or refused.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from noetl_events.jetstream.consume.ownership import LOST, Pin
from noetl_events.jetstream.consume.pull_requests import NO_ROOM, PullBuffer, PullInbox, is_a_refusal, is_an_ending
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
        consumer: that it reads.

    """

    def __init__(self, consumer: ConsumerDeclaration) -> None:
        self.broken = STARTING
        """Why the consumer has to be begun with anew; empty while it is read."""

        self.edited = ""
        """Why the consumer has to be looked at; empty while it is as it was."""

        self.refusal = ""
        """The server's words for the requests it refuses; empty once it has accepted one."""

        self._consumer = consumer
        self._failure: NatsUnavailable | None = None
        self._is_accepted = False
        self._logged = ""

    @property
    def reason(self) -> str:
        """Why the consumer is not read now; empty while it is, and while the puller starts."""
        return self.refusal or self.edited or (self.broken if self.broken != STARTING else "")

    @property
    def is_reading(self) -> bool:
        """Whether the consumer was there at the last look, and nothing has come between since."""
        return not self.broken and not self.reason

    def begin(self) -> None:
        """Note that the consumer is begun with; whether its requests are accepted is not known yet."""
        self.broken, self._is_accepted = "", False

    def accept(self) -> None:
        """Note that the server has accepted a request."""
        if not self._is_accepted:
            self._is_accepted = True
            self.refusal = self._logged = ""

    def refuse(self, status: str, text: str) -> bool:
        """Note that the server has refused a request; return whether others that are under way may be served."""
        words, is_refusal = f"{status} {text}".strip(), is_a_refusal(status, text)
        # Of several requests under way each is refused: the consumer is looked at for the first.
        is_known = is_refusal and bool(self.edited)
        if NO_ROOM in text or not (self._is_accepted or is_known):
            # Not the first time: to ask again at once would be to ask for ever.
            self.refusal = words
            said = f"consumer {self._consumer.name} of stream {self._consumer.stream} refuses requests: {words}"
            self._failure = Refused(said) if is_refusal else NatsUnavailable(said)
        if is_refusal:
            self.edited, self._is_accepted = words, False
        return is_refusal

    def raise_failure(self) -> None:
        """
        Return unless a request was refused since the last call.

        Raises:
            Refused: the next one will be refused as well.
            NatsUnavailable: the next one may be served.

        """
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def log_begin(self) -> None:
        """Log why the consumer is begun with anew: once, however often it is tried."""
        if self.broken == PINNED:
            log.info("puller.pinned", consumer=self._consumer.name)
        elif self.broken not in {STARTING, self._logged}:
            self._logged = self.broken
            log.warning("puller.restarting", consumer=self._consumer.name, reason=self.broken)

    def log_edit(self) -> None:
        """Log why the consumer is looked at, likewise."""
        if self.edited != self._logged:
            self._logged = self.edited
            log.warning("consumer.edited", consumer=self._consumer.name, reason=self.edited)


_BEGIN_AGAIN: Final = 1.0
_LOOK_ROUND: Final = 0.25
_SILENCE: Final = 10.0
_GAP: Final = "a delivery was lost"
_BODILESS: Final = "a message came without its body"


class PullReceiver:
    """
    The receiving side of one puller: called as messages are parsed, it never waits.

    Args:
        connection: to NATS; it stays open.
        consumer: as declared.
        position: of the consumer.
        max_messages: received and not yet taken, or asked for, at most.
        max_bytes: likewise, of their headers and payloads; but one message of any size always passes.

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
        self.heard = time.monotonic()
        """When the server last said anything, by `time.monotonic`."""

        self.in_doubt = 0
        """Of an exclusive consumer: up to this sequence another puller may have had it in hand when it died."""

        self.buffer: PullBuffer[Message] = PullBuffer()
        self.state = PullState(consumer)
        self.pin = Pin()
        self.arrived = asyncio.Event()
        """Set when a message has come, or anything has changed that is not to be waited for any longer."""

        next_subject = connection.api(f"CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.name}")
        # Two requests under way and half a buffer are all of it.
        self.inbox = PullInbox(
            consumer,
            self.pin,
            self._on_message,
            self._on_error,
            next_subject=next_subject,
            request_bytes=max_bytes // 4,
        )
        self.is_handing_over = False
        """Whether a batch was taken out, and its reader does not have it yet."""

        self._connection = connection
        self._is_exclusive = consumer.exclusive
        self._is_delivery = ack_subjects(consumer.stream, consumer.name).fullmatch
        self._position = position
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._begun = 0.0

    async def open(self, client: DirectClient) -> None:
        """
        Listen to a new inbox.

        Raises:
            NatsUnavailable: *client* cannot subscribe now.

        """
        await self.inbox.open(client)
        if self.pin.id:
            self.buffer.clear()

    def begin(self) -> None:
        """Note that the consumer is read from now on."""
        self.state.begin()
        self.heard = self._begun = time.monotonic()

    def interrupt(self, reason: str) -> None:
        """Note that the consumer has to be begun with anew: the server knows of none of our requests."""
        self.state.broken = reason
        self.inbox.requests.forget()
        self.arrived.set()

    def reconnected(self) -> None:
        """Note that the connection was lost, and is there again, or was closed for good."""
        self.interrupt("reconnected")

    @property
    def expects(self) -> bool:
        """Whether messages may be on their way: some were asked for, and the connection is there."""
        return self.inbox.requests.outstanding > 0 and self._connection.is_connected

    async def run_dry(self) -> None:
        """Return when nothing more comes: what is asked for cannot be taken back, and would come to nobody."""
        while self.expects:
            self.arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_ROUND):
                    await self.arrived.wait()

    async def until_arrival(self) -> None:
        """Return once something has come or changed; silence for long is an interruption as well."""
        quiet = time.monotonic() - self.heard
        try:
            async with asyncio.timeout(max(_SILENCE - quiet, 0)):
                await self.arrived.wait()
        except TimeoutError:
            if time.monotonic() - self.heard >= _SILENCE:
                self.interrupt(f"no sign of life for {_SILENCE:.0f} s")

    async def fill(self) -> None:
        """
        Ask for as many messages as there is room for.

        Raises:
            NatsUnavailable: nothing was asked.

        """
        if self._is_exclusive and not self.pin.id:
            # One message brings the pin.
            if not self.inbox.requests:
                await self._ask(1)
            return
        while len(self.inbox.requests) < self.inbox.most_requests:
            room = self._max_messages - len(self.buffer) - self.inbox.requests.outstanding
            if room < self._max_messages // 2 or self.buffer.bytes > self._max_bytes // 2:
                return
            await self._ask(room)

    async def _ask(self, batch: int) -> None:
        if not self.inbox.requests:
            # While nothing is asked for, a server owes no sign of life, however long a batch was held.
            self.heard = time.monotonic()
        await self.inbox.ask(batch)

    def _on_message(self, message: Message) -> bool:
        if not message.reply:
            return self._on_status(message)
        if not self._is_delivery(message.reply):
            return False
        self.heard = time.monotonic()
        self.state.accept()
        self.inbox.requests.receive()
        if self._is_exclusive and self.pin.is_new_in(message):
            # It comes again with what was before it.
            self.in_doubt = 0
            self.interrupt(PINNED)
        elif self._is_exclusive and (self.state.broken or self.pin.misses_one_before(message)):
            # Lost on the way, it would come after younger ones: this one comes again behind it.
            self.interrupt(self.state.broken or _GAP)
        elif not message.data and self._position.lacks_body(message):
            # It is not acknowledged, and comes again once it is known what the consumer is like.
            self.interrupt(_BODILESS)
        else:
            self.buffer.put(message)
            self.arrived.set()
        return True

    def _on_status(self, message: Message) -> bool:
        number, (status, text) = self.inbox.requests.number(message.subject), status_of(message)
        if number is None or not status:
            return False
        self.heard = time.monotonic()
        if status == LOST and self._is_exclusive:
            self.pin.lose()
            self.buffer.clear()
            self.interrupt("pinned to another")
        elif is_an_ending(status, text):
            self.state.accept()
            self.inbox.end(number, text)
            self.arrived.set()
        elif self.inbox.requests.is_open(number):
            if self.state.refuse(status, text):
                # What else is under way may be served.
                self.inbox.requests.drop(number)
                self.arrived.set()
            else:
                self.interrupt(f"{status} {text}".strip())
        return True

    def _on_error(self, exc: Exception) -> None:
        # A bug of ours: what is noted of requests and pin may be half of it.  The message comes again after its ack
        # wait; if it does the same each time, the others have their turn in between.
        if time.monotonic() - self._begun > _BEGIN_AGAIN:
            self.interrupt(f"a message could not be taken: {type(exc).__name__}: {exc}")
