"""What comes to a puller: messages into its buffer, and what the server says of its requests."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from noetl_events.jetstream.delivery import ack_subjects, status_of
from noetl_events.jetstream.pin import LOST, Pin
from noetl_events.jetstream.pull_buffer import PullBuffer
from noetl_events.jetstream.pull_inbox import PullInbox
from noetl_events.jetstream.pull_requests import is_an_ending
from noetl_events.jetstream.pull_state import PINNED, PullState

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.consumer_position import ConsumerPosition
    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from noetl_events.jetstream.delivery import Message
    from noetl_events.jetstream.direct_client import DirectClient

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
