"""
A continuous pull: messages are received while those before them are written.

nats-py's `fetch` makes a task for each message and sleeps through a server's restart.  Here each message goes from the
parser into a bounded buffer, and requests go out before it is empty.  One that brings nothing ends after a second: the
server is alive.  When nothing comes for ten, and after a reconnection, the consumer is looked up again and asked again.

A consumer that is edited by hand while it is read is looked at anew, and read on within its new limits, or refused with
what differs.  Requests that the server refuses are sent again with back-off: `Refused` says so in the server's words.

An exclusive consumer serves one puller at a time, the pinned one (see `pin`).  Whoever gets the pin, and whoever comes
back with it, has the consumer start again behind its last acknowledgement: what another had in hand comes first, in the
order of the stream, instead of later, between younger messages.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import structlog
from nats.errors import Error as NatsError

from noetl_events.jetstream.commands import publish_to_all
from noetl_events.jetstream.consumer_config import essence_of, limits_of, remarks
from noetl_events.jetstream.consumer_position import ConsumerPosition, StreamEnd
from noetl_events.jetstream.consumers import ensure_consumer, unpin_consumer
from noetl_events.jetstream.delivery import ack_subjects, delivery_of, status_of
from noetl_events.jetstream.errors import ConsumerDrift, NatsUnavailable, Refused, ServerTooOld, StreamDrift
from noetl_events.jetstream.origin import Origin
from noetl_events.jetstream.pin import LOST, Pin
from noetl_events.jetstream.pull_buffer import PullBuffer
from noetl_events.jetstream.pull_inbox import PullInbox
from noetl_events.jetstream.pull_requests import NO_ROOM, is_a_refusal, is_an_ending

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.consumers import ConsumerInfo
    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from noetl_events.jetstream.delivery import Message
    from noetl_events.jetstream.direct_client import DirectClient

_SILENCE: Final = 10.0
_BEGIN_AGAIN: Final = 1.0
_FAREWELL: Final = 5.0
_STARTING: Final = "starting"
_PINNED: Final = "pinned"
_GAP: Final = "a delivery was lost"
_PASSED_OVER: Final = "messages were passed over"
_BODILESS: Final = "a message came without its body"
_EDITED: Final = "the consumer was edited"
_DELETED: Final = "the consumer was deleted"
_ANOTHER: Final = "the stream may be another one"

log = structlog.get_logger()


class Puller:
    """
    The one reader of a durable consumer in this process.

    Args:
        connection: to NATS; it stays open.
        consumer: as declared; created from the start of the stream when it is missing.
        max_messages: received and not yet taken, or asked for, at most.
        max_bytes: likewise, of their headers and payloads; but one message of any size always passes.
        look: looks at the stream and returns where it ends; called before the consumer is read, at first and after each
            interruption, and when a message may be of another stream than those before.  What it raises, `pull` raises.

    """

    def __init__(
        self,
        connection: Connection,
        consumer: ConsumerDeclaration,
        *,
        max_messages: int = 8_000,
        max_bytes: int = 32 * 1024 * 1024,
        look: Callable[[], Awaitable[StreamEnd | None]] | None = None,
    ) -> None:
        self.consumer = consumer
        self.heard = time.monotonic()
        """When the server last said anything to us, by `time.monotonic`."""

        self.in_doubt = 0
        """Of an exclusive consumer: up to this sequence another puller may have had it in hand when it died."""

        self._connection = connection
        self._look_at_stream = look
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._buffer: PullBuffer[Message] = PullBuffer()
        self._origin = Origin(connection, consumer)
        self._position = ConsumerPosition(connection, consumer)
        self._pin = Pin()
        # Two requests under way and half a buffer are all of it.
        next_subject = connection.api(f"CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.name}")
        self._inbox = PullInbox(
            consumer,
            self._pin,
            self._on_message,
            self._on_error,
            next_subject=next_subject,
            request_bytes=max_bytes // 4,
        )
        self._is_delivery = ack_subjects(consumer.stream, consumer.name).fullmatch
        self._begun = 0.0
        self._arrived = asyncio.Event()
        self._limits_changed = asyncio.Event()
        self._is_told = False
        self._broken = _STARTING
        self._edited = ""
        self._logged = ""
        self._refusal = ""
        self._failure: NatsUnavailable | None = None
        self._is_accepted = False
        self._config: dict[str, Any] = {}
        self._remarks: dict[str, str] = {}
        self._paused_until = 0.0
        self._bodiless = self._bodiless_again = 0
        self._newest = (0, 0)
        self._stopping = False
        self._finished = False

    @property
    def buffered(self) -> Sequence[Message]:
        """Received and not yet taken."""
        return tuple(self._buffer.messages)

    @property
    def is_reading(self) -> bool:
        """Whether the consumer was there when we last looked, and nothing has come between since."""
        return not self.reason and self._broken != _STARTING and self._connection.is_connected

    @property
    def reason(self) -> str:
        """Why it does not read now; empty while it does, and while it starts."""
        return self._refusal or self._edited or (self._broken if self._broken != _STARTING else "")

    @property
    def pause(self) -> float:
        """Seconds for which an operator has paused the consumer, as of the last look; 0 when it is not paused."""
        return max(self._paused_until - time.monotonic(), 0.0)

    @property
    def passed_over(self) -> int:
        """Messages the consumer was found to have passed over, and was set back for."""
        return self._position.passed_over

    @property
    def serves_us(self) -> bool:
        """Whether messages come to us: of an exclusive consumer, whether we have its pin."""
        return not self.consumer.exclusive or bool(self._pin.id)

    async def until_keep_alive(self) -> None:
        """Return when `keep_alive` is due again: after a third of the shortest time the server waits for it."""
        while True:
            limits = self._inbox.limits
            shortest = min(limits.ack_wait, limits.pin_ttl if self.consumer.exclusive else limits.ack_wait)
            self._limits_changed.clear()
            try:
                async with asyncio.timeout(shortest / 3):
                    await self._limits_changed.wait()
            except TimeoutError:
                return

    async def ask(self) -> None:
        """
        Have messages sent to us, and return without waiting for one; `pull` does the same before it waits.

        After a refusal it returns once the server has accepted a request.

        Raises:
            NatsUnavailable: the consumer cannot be read now (its subclasses say why); ask again later.
            ConsumerDrift: the consumer must not be read, and never was.
            StreamDrift: its stream has other partitions than declared.
            ServerTooOld: the server cannot serve such a consumer.

        """
        if not self._stopping:
            await self._keep_asking()
        while self._refusal and not (self._stopping or self._buffer):
            await self._wait_for_arrival()
            await self._keep_asking()

    async def pull(self, limit: int) -> list[Message]:
        """
        Return 1 to *limit* messages in the order of delivery, waiting for the first; none once stopped and empty.

        Raises:
            NatsUnavailable: the consumer cannot be read now (its subclasses say why); pull again later.
            ConsumerDrift, StreamDrift, ServerTooOld: as `ask`.

        """
        batch: list[Message] = []
        while not batch and (self._buffer or not self._finished):
            while not self._buffer and not self._finished:
                if not self._stopping:
                    await self._keep_asking()
                await self._wait_for_arrival()
            batch = await self._take(limit)
        if not self._stopping and self.is_reading:
            # It is in nobody's hand yet: nothing here may begin anew, or drop it.
            with suppress(NatsUnavailable):
                await self._fill()
        return batch

    def look_at(self, info: ConsumerInfo | None) -> None:
        """Take what the consumer is like now, None if it is gone: one that is not as it was is begun with anew."""
        if self._broken or self.reason:
            return
        if info is None or not self._origin.is_from(info.created):
            self._break(_DELETED)
        elif essence_of(info.config) != self._config:
            self._edited = _EDITED
            self._arrived.set()
        else:
            self._position.note(info)
            self._note_pause(info)

    def restart_at(self, sequence: int, reason: str) -> None:
        """Have the consumer deliver again from *sequence* on, or from before."""
        self._position.restart_at(sequence)
        self._break(reason)

    def begin_again(self, reason: str) -> None:
        """Look at stream and consumer anew before the next message is taken."""
        if not (self._broken or self._refusal):
            self._break(reason)

    async def ack(self, messages: Iterable[Message]) -> None:
        """Tell the server that *messages* are settled; an answer lost on the way means one more delivery."""
        await self._answer(messages, b"+ACK", in_doubt=bool(self._broken))

    async def keep_alive(self, messages: Iterable[Message]) -> None:
        """Start the ack wait of *messages* and of what is buffered anew; keep the pin while nothing is pulled."""
        if held := [*messages, *self._buffer.messages]:
            await self._answer(held, b"+WPI", in_doubt=True)
        if self._pin.id and not self._inbox.requests:
            with suppress(NatsUnavailable):
                await self._inbox.show_life()

    async def flush(self) -> None:
        """Return when the server has everything sent so far; quietly give up when it is away."""
        with suppress(NatsError, OSError, asyncio.TimeoutError, NatsUnavailable):
            await (await self._connection.client()).flush(timeout=5)

    async def stop(self) -> None:
        """Ask for nothing more and receive what is under way; `pull` returns it, then nothing."""
        if self._stopping:
            return
        self._stopping = True
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    await self._run_dry()
            await self._inbox.close()
        finally:
            self._finished = True
            self._arrived.set()

    async def aclose(self) -> None:
        """Receive nothing more; what is in the buffer stays unacknowledged and is delivered again."""
        self._stopping = self._finished = True
        if self._is_told:
            self._connection.off_reconnect(self._on_reconnect)
            self._is_told = False
        await self._inbox.close()
        if self._pin.id:
            await unpin_consumer(self._connection, self.consumer, self._pin.arguments())
            self._pin.lose()

    async def _run_dry(self) -> None:
        # A request cannot be taken back: who stops listening sooner leaves what the server has just taken for it.
        while self._inbox.requests.outstanding:
            self._arrived.clear()
            await self._arrived.wait()

    async def _take(self, limit: int) -> list[Message]:
        """Return what comes next in the buffer, up to a gap in the stream; none if the gap is not explained."""
        batch = self._buffer.take(limit)
        if batch and not self._stopping and self._may_be_of_another_stream(batch[-1]):
            self._buffer.put_back(batch)
            self._break(_ANOTHER)
            return []
        if not batch or (found := self._position.gap_in(batch)) is None:
            return batch
        place, gap = found
        self._buffer.put_back(batch[place:])
        if place:
            return batch[:place]
        if self._stopping or not await self._position.is_explained(gap, batch[0]):
            self._buffer.clear()
            self._break(_PASSED_OVER)
        return []

    def _may_be_of_another_stream(self, message: Message) -> bool:
        """Return whether a message of at least this sequence was stored before *message*: it is not there any more."""
        delivery, (sequence, stored_ns) = delivery_of(message), self._newest
        self._newest = max(sequence, delivery.sequence), max(stored_ns, delivery.stored_ns)
        is_newer = sequence >= delivery.sequence and delivery.stored_ns > stored_ns
        return is_newer and self._look_at_stream is not None

    async def _keep_asking(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        client = await self._connection.client()
        if self._broken or client is not self._inbox.client:
            await self._begin(client)
        elif self._edited:
            await self._adapt()
        if not self._stopping:
            # Stopped meanwhile, what is asked for now would come to nobody.
            await self._fill()

    async def _fill(self) -> None:
        if not self.serves_us:
            # One message brings the pin.
            if not self._inbox.requests:
                await self._ask(1)
            return
        while len(self._inbox.requests) < self._inbox.most_requests:
            room = self._max_messages - len(self._buffer) - self._inbox.requests.outstanding
            if room < self._max_messages // 2 or self._buffer.bytes > self._max_bytes // 2:
                return
            await self._ask(room)

    async def _ask(self, batch: int) -> None:
        if not self._inbox.requests:
            # While nothing is asked for, a server owes no sign of life, however long a batch was held.
            self.heard = time.monotonic()
        await self._inbox.ask(batch)

    async def _begin(self, client: DirectClient) -> None:
        self._log_begin()
        end = await self._find_end()
        info = await self._look()
        if end is not None and info.delivered.stream_seq > end.last:
            # It may have delivered since what was stored since.
            end = await self._find_end()
        self._origin.begin(info.created, self._buffer.messages)
        if not self._is_told:
            self._connection.on_reconnect(self._on_reconnect)
            self._is_told = True
        self._keep_to(info)
        await self._inbox.open(client)
        if self._pin.id:
            self._buffer.clear()
            if self._pin.is_fresh:
                # The reset makes every delivery a first one: how far others were served can be seen only now.
                self.in_doubt = max(self.in_doubt, self._pin.before(info.delivered.stream_seq))
        await self._position.begin(info, is_pinned=bool(self._pin.id), end=end)
        if self._pin.id:
            self._pin.start_again()
        self._bodiless_again = self._bodiless
        self._broken, self._is_accepted = "", False
        self.heard = self._begun = time.monotonic()

    async def _adapt(self) -> None:
        """Look what the consumer is like since it was edited; requests that are under way go on."""
        if self._edited != self._logged:
            # Once, however often it is tried.
            self._logged = self._edited
            log.warning("consumer.edited", consumer=self.consumer.name, reason=self._edited)
        try:
            info = await self._look()
        except Refused:
            self._break(_EDITED)
            raise
        if not self._origin.is_from(info.created):
            self._break(_DELETED)
        self._keep_to(info)

    def _keep_to(self, info: ConsumerInfo) -> None:
        self._edited, self._config = "", essence_of(info.config)
        self._note_pause(info)
        if (limits := limits_of(self.consumer, info.config)) != self._inbox.limits:
            self._inbox.limits = limits
            self._limits_changed.set()

    async def _find_end(self) -> StreamEnd | None:
        """Return where the stream ends; of what is buffered from before a loss of it nothing is acknowledged."""
        end = None if self._look_at_stream is None else await self._look_at_stream()
        if end is not None and end.kept is not None:
            self._position.note_replaced(end.kept)
            self._origin.orphan(self._buffer.messages)
            self._newest = (0, 0)
        return end

    async def _look(self) -> ConsumerInfo:
        """Return the consumer; one that was edited while it was read is waited for, with what it passed over."""
        try:
            info = await ensure_consumer(self._connection, self.consumer)
        except (ConsumerDrift, ServerTooOld, StreamDrift) as exc:
            if not self._config:
                raise
            # A request that still waits must not take what is set back.
            await self._inbox.close()
            await self._position.rewind()
            raise Refused(str(exc)) from exc
        if (found := remarks(self.consumer, info.config)) != self._remarks:
            self._remarks = found
            log.warning("consumer.adapted_to", consumer=self.consumer.name, fields=found)
        return info

    def _log_begin(self) -> None:
        if self._broken == _PINNED:
            log.info("puller.pinned", consumer=self.consumer.name)
        elif self._broken not in {_STARTING, self._logged}:
            self._logged = self._broken
            log.warning("puller.restarting", consumer=self.consumer.name, reason=self._broken)

    def _note_pause(self, info: ConsumerInfo) -> None:
        was_paused = self.pause > 0
        self._paused_until = time.monotonic() + info.pause_remaining / 1e9 if info.paused else 0.0
        if info.paused and not was_paused:
            log.warning("consumer.paused", consumer=self.consumer.name, seconds=round(self.pause, 1))

    async def _wait_for_arrival(self) -> None:
        self._arrived.clear()
        if self._buffer or self._finished or ((self._broken or self._edited) and not self._stopping):
            return
        if self._stopping:
            # `stop` ends this wait, however silent the server is.
            await self._arrived.wait()
            return
        quiet = time.monotonic() - self.heard
        try:
            async with asyncio.timeout(max(_SILENCE - quiet, 0)):
                await self._arrived.wait()
        except TimeoutError:
            if time.monotonic() - self.heard >= _SILENCE:
                self._break(f"no sign of life for {_SILENCE:.0f} s")

    def _on_message(self, message: Message) -> bool:
        if not message.reply:
            return self._on_status(message)
        if not self._is_delivery(message.reply):
            return False
        self.heard = time.monotonic()
        self._accept()
        self._inbox.requests.receive()
        if self.consumer.exclusive and self._pin.is_new_in(message):
            # It comes again with what was before it.
            self.in_doubt = 0
            self._break(_PINNED)
        elif self.consumer.exclusive and (self._broken or self._pin.misses_one_before(message)):
            # Lost on the way, it would come after younger ones: this one comes again behind it.
            self._break(self._broken or _GAP)
        elif not message.data and self._lacks_body(message):
            # It is not acknowledged, and comes again once it is known what the consumer is like.
            self._position.drop(delivery_of(message).sequence)
            self._break(_BODILESS)
        else:
            self._buffer.put(message)
            self._arrived.set()
        return True

    def _lacks_body(self, message: Message) -> bool:
        """Return whether the server has left the body out; a message that comes so again has none."""
        if (message.headers or {}).get("Nats-Msg-Size", "0") == "0":
            return False
        sequence = delivery_of(message).sequence
        self._bodiless = max(self._bodiless, sequence)
        return sequence > self._bodiless_again

    def _on_status(self, message: Message) -> bool:
        number, (status, text) = self._inbox.requests.number(message.subject), status_of(message)
        if number is None or not status:
            return False
        self.heard = time.monotonic()
        if status == LOST and self.consumer.exclusive:
            self._pin.lose()
            self._buffer.clear()
            self._break("pinned to another")
        elif is_an_ending(status, text):
            self._accept()
            self._inbox.end(number, text)
            self._arrived.set()
        elif self._inbox.requests.is_open(number):
            self._on_refusal(number, status, text)
        return True

    def _on_refusal(self, number: int, status: str, text: str) -> None:
        words = f"{status} {text}".strip()
        if NO_ROOM in text or not self._is_accepted:
            # Not the first time: to ask again at once would be to ask for ever.
            self._refusal = words
            said = f"consumer {self.consumer.name} of stream {self.consumer.stream} refuses requests: {words}"
            self._failure = Refused(said) if is_a_refusal(status, text) else NatsUnavailable(said)
        if is_a_refusal(status, text):
            # What else is under way may be served.
            self._inbox.requests.drop(number)
            self._edited, self._is_accepted = words, False
            self._arrived.set()
        else:
            self._break(words)

    def _accept(self) -> None:
        if not self._is_accepted:
            self._is_accepted = True
            self._refusal = self._logged = ""

    def _on_error(self, exc: Exception) -> None:
        # A bug of ours: what is noted of requests and pin may be half of it.  The message comes again after its ack
        # wait; if it does the same each time, the others have their turn in between.
        if time.monotonic() - self._begun > _BEGIN_AGAIN:
            self._break(f"a message could not be taken: {type(exc).__name__}: {exc}")

    def _on_reconnect(self) -> None:
        self._break("reconnected")

    def _break(self, reason: str) -> None:
        self._broken = reason
        self._inbox.requests.forget()
        self._arrived.set()

    async def _answer(self, messages: Iterable[Message], answer: bytes, *, in_doubt: bool) -> None:
        try:
            if in_doubt and await self._origin.is_lost():
                self._break("another consumer of this name")
            replies = [message.reply for message in self._origin.own(messages)]
            await publish_to_all(await self._connection.client(), replies, answer)
        except NatsUnavailable as exc:
            # What was not settled is delivered again, and every sink takes it twice.
            log.warning("puller.answer_lost", answer=answer.decode(), reason=str(exc))
