"""
A continuous pull: messages are received while earlier ones are written.

nats-py's `fetch` creates a task for each message and does not notice a server's restart.  Here each message goes from
the parser into a bounded buffer, and requests are sent before it is empty.  A request without messages ends after a
second, so an idle server still shows that it answers.  After ten seconds of silence, and after a reconnection, the
consumer is checked and requested again.

If a consumer is edited by hand while it is read, it is checked again, and either read within its new limits or refused
with the differences.  Refused requests are retried with back-off, and `Refused` contains the server's words.

An exclusive consumer serves one client at a time, the pinned one (see `ownership`).  A client that becomes pinned, or
reconnects while pinned, resets the consumer to its last acknowledgement.  So messages that another client had in flight
are delivered first, in stream order, and not later between younger messages.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import structlog
from nats.errors import Error as NatsError

from noetl_events.jetstream.consume.ownership import ConsumerIncarnation
from noetl_events.jetstream.consume.position import PASSED_OVER, ConsumerPosition, StreamEnd
from noetl_events.jetstream.consume.receiver import PullReceiver
from noetl_events.jetstream.consumer_config import ConsumerLimits, essence_of, limits_of, remarks
from noetl_events.jetstream.consumers import ensure_consumer, require_server, unpin_consumer
from noetl_events.jetstream.errors import ConsumerDrift, NatsUnavailable, Refused, ServerTooOld, StreamDrift
from noetl_events.jetstream.publish.message import publish_to_all

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from noetl_events.jetstream.client import DirectClient
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.consumers import ConsumerInfo
    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from noetl_events.jetstream.message import Message

log = structlog.get_logger()


class KnownConfig:
    """
    The known configuration of one consumer.

    Args:
        connection: connection to NATS; it is not closed here.
        consumer: declaration of the consumer.

    """

    def __init__(self, connection: Connection, consumer: ConsumerDeclaration) -> None:
        self.limits = ConsumerLimits(ack_wait=consumer.ack_wait, pin_ttl=consumer.pin_ttl)
        """Limits that the pullers of the consumer observe."""

        self._connection = connection
        self._consumer = consumer
        self._config: dict[str, Any] = {}
        self._remarks: dict[str, str] = {}
        self._paused_until = 0.0
        self._changed = asyncio.Event()

    @property
    def pause(self) -> float:
        """Seconds until the end of an operator's pause, as of the last check; 0 if the consumer is not paused."""
        return max(self._paused_until - time.monotonic(), 0.0)

    async def require_server(self) -> None:
        """Check that the server supports the consumer; raises as `ensure`."""
        try:
            await require_server(self._connection, self._consumer)
        except ServerTooOld as exc:
            if not self._config:
                raise
            raise Refused(str(exc)) from exc

    async def ensure(self) -> ConsumerInfo:
        """
        Return the consumer, created if it was missing.

        Raises:
            ConsumerDrift, StreamDrift, ServerTooOld: the consumer must not be read, and was not read before.
            Refused: the consumer must not be read any more.
            NatsUnavailable: the server did not answer, or answered with an error.

        """
        try:
            info = await ensure_consumer(self._connection, self._consumer)
        except (ConsumerDrift, ServerTooOld, StreamDrift) as exc:
            if not self._config:
                raise
            raise Refused(str(exc)) from exc
        if (found := remarks(self._consumer, info.config)) != self._remarks:
            self._remarks = found
            log.warning("consumer.adapted_to", consumer=self._consumer.name, fields=found)
        return info

    def is_unchanged(self, info: ConsumerInfo) -> bool:
        """Return True if the configuration of *info* is the known one."""
        return essence_of(info.config) == self._config

    def update(self, info: ConsumerInfo) -> None:
        """Store the configuration and the limits of *info*."""
        self._config = essence_of(info.config)
        self.record_pause(info)
        if (limits := limits_of(self._consumer, info.config)) != self.limits:
            self.limits = limits
            self._changed.set()

    def record_pause(self, info: ConsumerInfo) -> None:
        """Record the pause of *info*."""
        was_paused = self.pause > 0
        self._paused_until = time.monotonic() + info.pause_remaining / 1e9 if info.paused else 0.0
        if info.paused and not was_paused:
            log.warning("consumer.paused", consumer=self._consumer.name, seconds=round(self.pause, 1))

    async def until_keep_alive(self) -> None:
        """Return after a third of the shortest time that the server waits for acknowledgements or requests."""
        while True:
            limits = self.limits
            shortest = min(limits.ack_wait, limits.pin_ttl if self._consumer.exclusive else limits.ack_wait)
            self._changed.clear()
            try:
                async with asyncio.timeout(shortest / 3):
                    await self._changed.wait()
            except TimeoutError:
                return


_STOP_TIMEOUT: Final = 5.0
_DELETED: Final = "the consumer was deleted"


class Puller:
    """
    The single reader of a durable consumer in this process.

    Args:
        connection: connection to NATS; it is not closed here.
        consumer: declaration; a missing consumer is created at the start of the stream.
        max_messages: most messages buffered and requested.
        max_bytes: most bytes of headers and payloads buffered and requested; a single message of any size always
            passes.
        check_stream: function that checks the stream and returns its end; called before the consumer is read, at first
            and after each interruption, and if a message may be from another stream.  `pull` raises its errors.

    """

    def __init__(
        self,
        connection: Connection,
        consumer: ConsumerDeclaration,
        *,
        max_messages: int = 8_000,
        max_bytes: int = 32 * 1024 * 1024,
        check_stream: Callable[[], Awaitable[StreamEnd | None]] | None = None,
    ) -> None:
        self.consumer = consumer
        self._connection = connection
        self._check_stream = check_stream
        self._incarnation = ConsumerIncarnation(connection, consumer)
        self._position = ConsumerPosition(connection, consumer)
        self._config = KnownConfig(connection, consumer)
        self._receiver = PullReceiver(
            connection, consumer, self._position, max_messages=max_messages, max_bytes=max_bytes
        )
        self._buffer, self._inbox = self._receiver.buffer, self._receiver.inbox
        self._state, self._pin = self._receiver.state, self._receiver.pin
        self._is_subscribed = False
        self._stopping = False
        self._finished = False

    @property
    def last_arrival(self) -> float:
        """Time of the last message from the server, by `time.monotonic`."""
        return self._receiver.last_arrival

    @property
    def in_doubt(self) -> int:
        """Last sequence that another client of an exclusive consumer may have processed when it died."""
        return self._receiver.in_doubt

    @property
    def buffered(self) -> Sequence[Message]:
        """Messages received and not yet returned."""
        return tuple(self._buffer.messages)

    @property
    def is_empty(self) -> bool:
        """True if nothing is buffered and no message can arrive: NATS is unavailable, or no request is open."""
        return not (self._receiver.expects or self._buffer or self._receiver.is_handing_over)

    @property
    def is_reading(self) -> bool:
        """True if the last check found the consumer, and nothing has interrupted the reading since."""
        return self._state.is_reading and self._connection.is_connected

    @property
    def reason(self) -> str:
        """Reason why the consumer is not read now; empty while it is read or the puller starts."""
        return self._state.reason

    @property
    def pause(self) -> float:
        """Seconds until the end of an operator's pause, as of the last check; 0 if the consumer is not paused."""
        return self._config.pause

    @property
    def passed_over(self) -> int:
        """Number of messages that the consumer had skipped, and was reset for."""
        return self._position.passed_over

    @property
    def is_served(self) -> bool:
        """True if the server delivers to this client: always, or while pinned for an exclusive consumer."""
        return not self.consumer.exclusive or bool(self._pin.id)

    async def until_keep_alive(self) -> None:
        """Return when the next `keep_alive` is due: after a third of the shortest time the server waits for it."""
        await self._config.until_keep_alive()

    async def request(self) -> None:
        """
        Request messages, and return without waiting for one; `pull` does the same before it waits.

        After a refusal the call returns once the server has accepted a request.

        Raises:
            NatsUnavailable: the consumer cannot be read now (subclasses give the reason); call again later.
            ConsumerDrift: the consumer must not be read, and was not read before.
            StreamDrift: the stream's partitions differ from the declared ones.
            ServerTooOld: the server does not support such a consumer.

        """
        if not self._stopping:
            await self._request_more()
        while self._state.refusal and not (self._stopping or self._buffer):
            await self._wait_for_arrival()
            await self._request_more()

    async def pull(self, limit: int) -> list[Message]:
        """
        Return 1 to *limit* messages in delivery order, and wait for the first; none once stopped and empty.

        Raises:
            NatsUnavailable: the consumer cannot be read now (subclasses give the reason); call again later.
            ConsumerDrift, StreamDrift, ServerTooOld: as `request`.

        """
        batch: list[Message] = []
        while not batch and (self._buffer or not self._finished):
            while not self._buffer and not self._finished:
                if not self._stopping:
                    await self._request_more()
                await self._wait_for_arrival()
            batch = await self._next_batch(limit)
        if not self._stopping and self.is_reading:
            # The batch has not been returned yet, so nothing here may raise, restart the pull, or drop the batch.
            self._receiver.is_handing_over = True
            with suppress(NatsUnavailable):
                await self._receiver.fill()
            self._receiver.is_handing_over = False
        return batch

    def check(self, info: ConsumerInfo | None, *, end: int = 0) -> None:
        """
        Compare the consumer with its state; a changed one is checked or restarted, and so is one that skips messages.

        Args:
            info: state of the consumer; None if it is gone.
            end: sequence of the stream's last message, read before *info*; 0 if it is unknown.

        """
        if not self._state.is_reading:
            return
        if info is None or not self._incarnation.is_from(info.created):
            self._receiver.interrupt(_DELETED)
        elif self._config.is_unchanged(info):
            if self._position.stops_short(info, end):
                self._receiver.interrupt("the consumer may have skipped the last messages of the stream")
            self._position.record(info)
            self._config.record_pause(info)
        else:
            self._state.edited = "the consumer was edited"
            self._receiver.arrived.set()

    def restart(self, reason: str, *, start: int = 0) -> None:
        """Check stream and consumer before the next message is returned; redeliver from sequence *start*, if given."""
        if start:
            self._position.restart_at(start)
        if self._state.is_reading:
            self._receiver.interrupt(reason)

    async def ack(self, messages: Iterable[Message]) -> None:
        """Acknowledge *messages*; a message is delivered again if its acknowledgement is lost."""
        await self._answer(messages, b"+ACK", in_doubt=bool(self._state.broken))

    async def keep_alive(self, messages: Iterable[Message]) -> None:
        """Extend the ack wait of *messages* and of the buffered ones; keep the pin while no request is open."""
        if held := [*messages, *self._buffer.messages]:
            await self._answer(held, b"+WPI", in_doubt=True)
        if self._pin.id and not self._inbox.requests:
            with suppress(NatsUnavailable):
                await self._inbox.extend_pin()

    async def flush(self) -> None:
        """Return when the server has received everything sent so far; return at once while disconnected."""
        if self._connection.is_connected:
            with suppress(NatsError, OSError, asyncio.TimeoutError, NatsUnavailable):
                await (await self._connection.client()).flush(timeout=5)

    async def stop(self) -> None:
        """Stop requesting, and receive the messages in flight; `pull` returns those, then none."""
        if self._stopping:
            return
        self._stopping = True
        try:
            try:
                async with asyncio.timeout(_STOP_TIMEOUT):
                    await self._receiver.drain()
            except TimeoutError:
                log.warning("puller.left_in_flight", consumer=self.consumer.name, seconds=_STOP_TIMEOUT)
            await self._inbox.close()
        finally:
            self._finished = True
            self._receiver.arrived.set()

    async def aclose(self) -> None:
        """Stop receiving; buffered messages stay unacknowledged and are delivered again."""
        self._stopping = self._finished = True
        if self._is_subscribed:
            self._connection.off_reconnect(self._receiver.reconnected)
            self._is_subscribed = False
        await self._inbox.close()
        if self._pin.id:
            await unpin_consumer(self._connection, self.consumer, self._pin.arguments())
            self._pin.lose()

    async def _next_batch(self, limit: int) -> list[Message]:
        """Return the next messages of the buffer, up to a gap in the stream; none if the gap is not explained."""
        batch = self._buffer.pop(limit)
        is_watched = self._check_stream is not None and not self._stopping
        if batch and is_watched and self._position.may_be_of_another_stream(batch[-1]):
            self._buffer.put_back(batch)
            self._receiver.interrupt("the stream may have been replaced")
            return []
        if not batch or (found := self._position.gap_in(batch)) is None:
            return batch
        place, gap = found
        self._buffer.put_back(batch[place:])
        if place:
            return batch[:place]
        reason = "" if self._stopping else await self._position.explain(gap, batch[0])
        if self._stopping or reason == PASSED_OVER:
            # The messages are delivered again, after those missing before them.
            self._buffer.clear()
        if reason:
            self._receiver.interrupt(reason)
            await self._request_more()
        return []

    async def _request_more(self) -> None:
        self._state.raise_failure()
        client = await self._connection.client()
        if self._state.broken or client is not self._inbox.client:
            await self._start(client)
        elif self._state.edited:
            await self._adapt()
        if not self._stopping:
            # After a stop during the calls above, requested messages would have no reader.
            await self._receiver.fill()

    async def _start(self, client: DirectClient) -> None:
        self._state.log_restart()
        await self._config.require_server()
        end = await self._read_end()
        info = await self._ensure_consumer()
        if end is not None and info.delivered.stream_seq > end.last:
            # Messages may have been stored and delivered since the end was read, so read it again.
            end = await self._read_end()
        self._incarnation.start(info.created, self._buffer.messages)
        if not self._is_subscribed:
            self._connection.on_reconnect(self._receiver.reconnected)
            self._is_subscribed = True
        self._apply(info)
        await self._receiver.open(client)
        if self._pin.id and self._pin.is_fresh:
            # The reset makes every delivery a first one, so this is the last chance to see what others received.
            self._receiver.in_doubt = max(self._receiver.in_doubt, self._pin.before(info.delivered.stream_seq))
        await self._position.start(info, is_pinned=bool(self._pin.id), buffered=len(self._buffer), end=end)
        if self._pin.id:
            self._pin.restart()
        self._receiver.start()

    async def _adapt(self) -> None:
        """Check the consumer after an edit; requests in flight continue."""
        self._state.log_edit()
        try:
            info = await self._ensure_consumer()
        except Refused:
            self._receiver.interrupt(self._state.edited)
            raise
        if not self._incarnation.is_from(info.created):
            self._receiver.interrupt(_DELETED)
        self._apply(info)

    def _apply(self, info: ConsumerInfo) -> None:
        self._state.edited = ""
        self._config.update(info)
        self._inbox.limits = self._config.limits

    async def _read_end(self) -> StreamEnd | None:
        """Return the end of the stream; messages buffered before a loss of the stream are never acknowledged."""
        end = None if self._check_stream is None else await self._check_stream()
        if end is not None and end.kept is not None:
            self._position.record_replaced(end.kept)
            self._incarnation.orphan(self._buffer.messages)
        return end

    async def _ensure_consumer(self) -> ConsumerInfo:
        """Return the consumer; if it was edited and is refused, reset it so that nothing is skipped."""
        try:
            return await self._config.ensure()
        except Refused:
            # An open request must not receive the messages that the reset delivers again.
            await self._inbox.close()
            # The buffer may lack messages that the edit skipped, so all of it is delivered again.
            self._buffer.clear()
            await self._position.rewind()
            raise

    async def _wait_for_arrival(self) -> None:
        self._receiver.arrived.clear()
        if self._buffer or self._finished or ((self._state.broken or self._state.edited) and not self._stopping):
            return
        if self._stopping:
            # `stop` ends this wait, even if the server is silent.
            await self._receiver.arrived.wait()
            return
        await self._receiver.until_arrival()

    async def _answer(self, messages: Iterable[Message], answer: bytes, *, in_doubt: bool) -> None:
        try:
            if in_doubt and await self._incarnation.is_lost():
                self._receiver.interrupt("another consumer has this name")
            replies = [message.reply for message in self._incarnation.own(messages)]
            await publish_to_all(await self._connection.client(), replies, answer)
        except NatsUnavailable as exc:
            # Unacknowledged messages are delivered again, and every sink accepts them twice.
            log.warning("puller.answer_lost", answer=answer.decode(), reason=str(exc))
