"""
The position of a durable consumer: its last acknowledgement, and the messages it has skipped.

A consumer that was edited by hand may skip messages for ever, and its configuration shows no trace of that once it is
restored.  The numbers of its deliveries do (see `gaps`), and so does the end of the stream.

Deliveries are compared with the stream before any of them is acknowledged.  A consumer that was edited is reset at once
to its last acknowledgement before the edit.  The server stores that position, so it survives this process.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from noetl_events.jetstream.consume.gaps import Gap, GapDetector, passed_over
from noetl_events.jetstream.consumers import SequenceInfo, can_reset, reset_consumer, show_consumer
from noetl_events.jetstream.errors import ConsumerMissing, NatsUnavailable, Refused
from noetl_events.jetstream.message import delivery_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.consumers import ConsumerInfo
    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from noetl_events.jetstream.message import Message

# A cluster reports pending acknowledgements and the ack floor of different moments, so compare again after this time.
_SETTLING: Final = 1.0

PASSED_OVER: Final = "messages were skipped"

log = structlog.get_logger()


class StreamEnd(NamedTuple):
    """
    The end of a stream.

    Args:
        last: sequence of the last message.
        kept: last sequence that is unchanged since the consumer was started, if the stream was created again or lost
            its end; None otherwise.

    """

    last: int
    kept: int | None = None


class ConsumerPosition:
    """
    The position of one consumer.

    Args:
        connection: connection to NATS; it is not closed here.
        consumer: declaration of the consumer.

    """

    def __init__(self, connection: Connection, consumer: ConsumerDeclaration) -> None:
        self.passed_over = 0
        """Number of messages that the consumer had skipped, and that were delivered again."""

        self._connection = connection
        self._consumer = consumer
        # With a filter, delivery numbers say nothing about the messages between them.
        self._gaps = None if consumer.filter_subjects else GapDetector()
        self._created = ""
        self._acked = 0
        self._restart = 0
        self._dropped = 0
        self._buffered = 0
        self._is_renumbered = False
        self._bodiless = self._bodiless_again = 0
        self._newest = (0, 0)
        self._kept: int | None = None
        self._end = self._whole_up_to = 0
        self._is_ahead = False
        self._is_well = False

    def record(self, info: ConsumerInfo) -> None:
        """Record the ack floor of a consumer with the expected configuration."""
        self._acked, self._is_well = info.ack_floor.stream_seq, True

    def stops_short(self, info: ConsumerInfo, end: int) -> bool:
        """
        Return True if the consumer neither delivers nor counts messages that were the last ones at the previous call.

        An edit that was undone may have skipped them, and without a later delivery no number shows it.

        Args:
            info: state of the consumer.
            end: sequence of the stream's last message, read before *info*; 0 if it is unknown.

        """
        # A replica of a cluster may learn of a message late, so a message counts only from the second call on.
        before, self._end = self._end, end
        return self._gaps is not None and not info.num_pending and before > max(self._whole_up_to, _last_of(info))

    def restart_at(self, sequence: int) -> None:
        """Reset the consumer to *sequence*, or an earlier one requested before, at its next start."""
        self._restart = min(self._restart or sequence, sequence)

    def lacks_body(self, message: Message) -> bool:
        """
        Return True if the server omitted the body of *message*, which is then delivered again.

        A message without its body after a check of the consumer is accepted: it was stored without one.
        """
        if (message.headers or {}).get("Nats-Msg-Size", "0") == "0":
            return False
        sequence = delivery_of(message).sequence
        self._bodiless = max(self._bodiless, sequence)
        if sequence <= self._bodiless_again:
            return False
        # Reset the consumer, so the message comes before its ack wait is over.
        self._dropped = min(self._dropped or sequence, sequence)
        return True

    def may_be_of_another_stream(self, message: Message) -> bool:
        """Return True if an older message had at least the sequence of *message*, so the stream no longer has it."""
        delivery, (sequence, stored_ns) = delivery_of(message), self._newest
        self._newest = max(sequence, delivery.sequence), max(stored_ns, delivery.stored_ns)
        return sequence >= delivery.sequence and delivery.stored_ns > stored_ns

    def record_replaced(self, kept: int) -> None:
        """Record that the stream is unchanged only up to sequence *kept*; later messages are delivered again."""
        self._kept = kept if self._kept is None else min(self._kept, kept)
        self._acked = min(self._acked, kept)
        self._newest = (0, 0)
        self._end = self._whole_up_to = 0

    async def start(
        self, info: ConsumerInfo, *, is_pinned: bool, buffered: int = 0, end: StreamEnd | None = None
    ) -> None:
        """
        Start to read a consumer with the expected configuration; reset it if necessary, and always if it is pinned.

        Args:
            info: state of the consumer.
            is_pinned: True if the consumer is exclusive and this client is pinned.
            buffered: number of messages in the buffer from this consumer or an earlier incarnation.
            end: end of the stream, if known: a consumer ahead of it is reset.

        Raises:
            Refused: the consumer has skipped messages, and the server cannot reset it.
            NatsUnavailable: the server did not answer, or answered with an error.

        """
        self._buffered = buffered
        if info.created != self._created:
            if self._created:
                # The consumer was created again, so it delivers everything anyway.
                self._restart, self._dropped, self._kept = 0, 0, None
            self._end = self._whole_up_to = 0
            self._created = info.created
            self._record_delivered(info.delivered)
        elif self._is_renumbered:
            self._record_delivered(info.delivered)
        self._follow(info.delivered, end)
        if self._dropped and await can_reset(self._connection):
            self.restart_at(self._dropped)
        if end is not None and not self._restart:
            await self._require_whole(info, end.last)
        start = self._restart or await self._skipped_earlier(info)
        self._kept, self._bodiless_again = None, self._bodiless
        if start:
            self.record(await self._reset(start))
        elif is_pinned:
            info = await reset_consumer(self._connection, self._consumer)
            self._record_delivered(info.delivered)
            self.record(info)
        else:
            self.record(info)

    def _follow(self, delivered: SequenceInfo, end: StreamEnd | None) -> None:
        """Request redelivery of messages after a loss of the stream, and of those that a consumer ahead of it skips."""
        if self._kept is not None and delivered.stream_seq > self._kept:
            self.restart_at(self._kept + 1)
        was_ahead, self._is_ahead = self._is_ahead, end is not None and delivered.stream_seq > end.last
        if end is not None and self._is_ahead:
            # Old deliveries and new messages at the same sequences cannot be told apart, so deliver all again.
            start = self._acked + 1 if 0 < self._acked <= end.last else 1
            self.restart_at(start if self._kept is None else min(start, self._kept + 1))
            if not was_ahead:
                log.error(
                    "consumer.ahead_of_stream",
                    consumer=self._consumer.name,
                    delivered=delivered.stream_seq,
                    last_sequence=end.last,
                    reason="the stream was restored or lost its end; its messages are delivered again",
                )

    async def _require_whole(self, info: ConsumerInfo, end: int) -> None:
        """Request redelivery if messages up to *end*, the last one of the stream, are neither delivered nor pending."""
        if self._gaps is None or end <= _last_of(info) + info.num_pending:
            return
        gap = Gap(_last_of(info), end + 1, info.num_pending)
        if await passed_over(self._connection, self._consumer.stream, gap):
            # A replica of a cluster may learn of a message late, so compare again.
            await asyncio.sleep(_SETTLING)
            info = await show_consumer(self._connection, self._consumer)
            gap = Gap(_last_of(info), end + 1, info.num_pending)
            if missing := await passed_over(self._connection, self._consumer.stream, gap):
                self._redeliver(gap, missing)
                return
        self._whole_up_to = end

    async def rewind(self) -> None:
        """Reset an edited consumer to its last ack floor before the edit; further calls do nothing."""
        if not self._is_well:
            return
        self._buffered = 0
        self.restart_at(self._acked + 1)
        self._is_well = False
        try:
            info = await show_consumer(self._connection, self._consumer)
            if info.created == self._created and await can_reset(self._connection):
                await self._reset(self._restart)
        except ConsumerMissing:
            return
        except NatsUnavailable as exc:
            log.warning("consumer.not_reset", consumer=self._consumer.name, reason=str(exc))

    def gap_in(self, messages: Sequence[Message]) -> tuple[int, Gap] | None:
        """Return the index of the first of *messages* after a gap, and the gap; None without a gap."""
        return self._gaps.find(messages) if self._gaps is not None else None

    async def explain(self, gap: Gap, message: Message) -> str:
        """
        Return the reason why the consumer has to be restarted before *message*, the first one after *gap*.

        The reason is empty, and *message* accepted, if all messages in the gap were removed from the stream.

        Raises:
            NatsUnavailable: the server did not answer, or answered with an error.

        """
        if gap.elsewhere or gap.is_renumbered:
            # Other pullers may have received deliveries with restarted numbers since the last one seen here.
            gap = gap._replace(after=max(gap.after, self._acked))
        is_suspect = gap.before - gap.after - 1 > gap.elsewhere
        missing = await passed_over(self._connection, self._consumer.stream, gap) if is_suspect else 0
        if missing:
            self._redeliver(gap, missing)
            return PASSED_OVER
        if gap.is_renumbered:
            self._is_renumbered = True
            return "another client has reset the consumer"
        if self._gaps is not None:
            self._gaps.accept(message)
        return ""

    def _redeliver(self, gap: Gap, missing: int) -> None:
        self.passed_over += missing
        self.restart_at(gap.after + 1)
        log.error(
            "consumer.passed_over",
            consumer=self._consumer.name,
            messages=missing,
            after=gap.after,
            before=gap.before,
            reason="the consumer was edited, or its position moved; it is reset and delivers them now",
        )

    async def _skipped_earlier(self, info: ConsumerInfo) -> int:
        """Return the sequence after which an earlier reader of the consumer skipped messages; 0 if none did."""
        acked, delivered = info.ack_floor, info.delivered
        if self._consumer.exclusive:
            return 0
        if delivered.stream_seq > acked.stream_seq and await self._has_gap(info):
            return acked.stream_seq + 1
        if not (_may_have_given_up(info) and await self._is_settled(info)):
            return 0
        # nats-server 2.10 moves the ack floor past such messages, so they may be anywhere.
        return acked.stream_seq + 1 if delivered.stream_seq > acked.stream_seq else 1

    async def _has_gap(self, info: ConsumerInfo) -> bool:
        """Return True if there is a gap after the ack floor."""
        acked, delivered = info.ack_floor, info.delivered
        gap = Gap(acked.stream_seq, delivered.stream_seq + 1, delivered.consumer_seq - acked.consumer_seq)
        is_suspect = gap.before - gap.after - 1 > gap.elsewhere and self._gaps is not None
        return is_suspect and await passed_over(self._connection, self._consumer.stream, gap) > 0

    async def _is_settled(self, info: ConsumerInfo) -> bool:
        """Return True if a second check finds no message pending either; a cluster reports numbers of two moments."""
        await asyncio.sleep(_SETTLING)
        again = await show_consumer(self._connection, self._consumer)
        return _may_have_given_up(again) and again.ack_floor == info.ack_floor

    async def _reset(self, start: int) -> ConsumerInfo:
        if not await can_reset(self._connection):
            raise Refused(
                f"consumer {self._consumer.name} has to deliver again from sequence {start} on, because "
                f"messages were skipped or the stream lost its end, and this server cannot reset it; {self._remedy}"
            )
        # Another puller may just have reset the consumer further back, so never move it past the ack floor.
        acked = (await show_consumer(self._connection, self._consumer)).ack_floor.stream_seq
        info = await reset_consumer(self._connection, self._consumer, start=min(start, acked + 1))
        log.error("consumer.reset", consumer=self._consumer.name, start=min(start, acked + 1))
        self._restart, self._dropped, self._kept = 0, 0, None
        self._record_delivered(info.delivered)
        return info

    def _record_delivered(self, last: SequenceInfo) -> None:
        self._is_renumbered = False
        if self._gaps is not None:
            self._gaps.start(last, uncounted=self._buffered)

    @property
    def _remedy(self) -> str:
        place = f"{self._consumer.stream} {self._consumer.name}"
        return f"delete it (nats consumer rm {place}): the projector recreates it and reads the stream from its start"


def _may_have_given_up(info: ConsumerInfo) -> bool:
    """Return True if messages are neither acknowledged nor pending, as after a finite `max_deliver`."""
    has_unacknowledged = not info.num_ack_pending and info.delivered.stream_seq > info.ack_floor.stream_seq
    # An acknowledged, removed or expired message is no longer counted as redelivered (2.10 to 2.15, measured).
    return has_unacknowledged or info.num_redelivered > info.num_ack_pending


def _last_of(info: ConsumerInfo) -> int:
    """Return the sequence up to which the consumer has delivered or acknowledged messages."""
    return max(info.delivered.stream_seq, info.ack_floor.stream_seq)
