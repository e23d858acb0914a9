"""
The position of a durable consumer: its last acknowledgement, and the messages it has passed over.

A consumer that was edited by hand may pass messages over for good, and once it is put back its configuration shows no
trace of that.  The numbers do: a consumer without filters counts its deliveries, and each first delivery takes one
message of the stream.  So the sequences of the stream must not run ahead of the deliveries, except over messages that
were removed.  Where they do, and the stream still has the messages between, there is a gap.

Deliveries are compared with the stream before any of them is acknowledged.  A consumer that is found edited is set back
at once, behind the last acknowledgement of the time before.  The server keeps that position, so it outlives this
process.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import structlog

from noetl_events.jetstream.api import ask
from noetl_events.jetstream.consumers import Position, can_reset, reset_consumer, show_consumer
from noetl_events.jetstream.errors import ConsumerMissing, NatsUnavailable, Refused
from noetl_events.jetstream.message import delivery_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.consumers import ConsumerInfo
    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from noetl_events.jetstream.message import Delivery, Message

# The server lists what was removed in between: 100 kB of an answer.  With more, nothing can be told.
_MOST_REMOVED: Final = 10_000


class Gap(NamedTuple):
    """
    Sequences that no delivery known to us accounts for.

    Args:
        after: the last sequence before it.
        before: the first one behind it.
        elsewhere: deliveries meanwhile that other pullers may have had, each of one of these sequences.
        is_renumbered: the consumer counts its deliveries anew, and has delivered to others what is not known.

    """

    after: int
    before: int
    elsewhere: int = 0
    is_renumbered: bool = False


class GapDetector:
    """The deliveries of a consumer without filters, in the order of their arrival."""

    def __init__(self) -> None:
        self._last = Position()
        self._uncounted = 0

    def begin(self, last: Position, *, uncounted: int = 0) -> None:
        """Note the *last* delivery that is accounted for; so many of the next were counted before it counted anew."""
        self._last, self._uncounted = last, uncounted

    def find(self, messages: Sequence[Message]) -> tuple[int, Gap] | None:
        """Take *messages*; return the place of the first one behind a gap, which is not taken, and that gap."""
        passed = min(self._uncounted, len(messages))
        self._uncounted -= passed
        found = self._find(messages[passed:]) if passed < len(messages) else None
        return None if found is None else (passed + found[0], found[1])

    def _find(self, messages: Sequence[Message]) -> tuple[int, Gap] | None:
        first, last = delivery_of(messages[0]), delivery_of(messages[-1])
        if self._accounts_for(last) and _are_fresh(messages, first):
            self._take(last)
            return None
        for place, message in enumerate(messages):
            delivery = delivery_of(message)
            if (gap := self._gap_before(delivery)) is not None:
                return place, gap
            self._take(delivery)
        return None

    def accept(self, message: Message) -> None:
        """Take *message*, whatever lies before it."""
        self._take(delivery_of(message))

    def _accounts_for(self, delivery: Delivery) -> bool:
        return 0 < delivery.number - self._last.consumer_seq == delivery.sequence - self._last.stream_seq

    def _gap_before(self, delivery: Delivery) -> Gap | None:
        deliveries = delivery.number - self._last.consumer_seq
        if deliveries <= 0:
            return Gap(self._last.stream_seq, delivery.sequence, delivery.number - 1, is_renumbered=True)
        if delivery.attempt > 1 or delivery.sequence - self._last.stream_seq <= deliveries:
            return None
        return Gap(self._last.stream_seq, delivery.sequence, deliveries - 1)

    def _take(self, delivery: Delivery) -> None:
        if delivery.attempt == 1:
            self._last = Position(delivery.sequence, delivery.number)
        else:
            # It counts as a delivery, and takes no further message of the stream.
            self._last = Position(self._last.stream_seq, self._last.consumer_seq + 1)


class _State(msgspec.Struct, frozen=True):
    first_seq: int = 0
    num_deleted: int = 0
    deleted: list[int] = msgspec.field(default_factory=list)


class _Answer(msgspec.Struct, frozen=True):
    state: _State | None = None


_decode = msgspec.json.Decoder(_Answer).decode


async def passed_over(connection: Connection, stream: str, gap: Gap) -> int:
    """
    Return how many messages *stream* still has in *gap* that were delivered to no puller.

    Raises:
        NatsUnavailable: the server did not answer, or said no.

    """
    state = await _state(connection, stream, b"")
    if state.num_deleted > _MOST_REMOVED:
        return 0
    if state.num_deleted:
        state = await _state(connection, stream, b'{"deleted_details":true}')
    first = max(gap.after + 1, state.first_seq)
    removed = sum(first <= sequence < gap.before for sequence in state.deleted)
    return max(gap.before - first - removed - gap.elsewhere, 0)


async def _state(connection: Connection, stream: str, body: bytes) -> _State:
    data, error = await ask(connection, f"STREAM.INFO.{stream}", body)
    state = None if error is not None else _decode(data).state
    if state is None:
        raise NatsUnavailable(
            f"stream {stream}: {error.description if error is not None else 'no state in the answer'}"
        )
    return state


def _are_fresh(messages: Sequence[Message], first: Delivery) -> bool:
    """Return whether *messages* are delivered for the first time, by the beginnings of their ack subjects alone."""
    if first.attempt != 1:
        return False
    reply = messages[0].reply
    # The subject up to and with the attempt, in either form.
    tail = reply.rindex(f".1.{first.sequence}.{first.number}.")
    beginning = reply[: tail + 3]
    return all(message.reply.startswith(beginning) for message in messages)


# In a cluster, what is acknowledged and how far that reaches are not told of the same moment.
_SETTLING: Final = 1.0

PASSED_OVER: Final = "messages were passed over"

log = structlog.get_logger()


class StreamEnd(NamedTuple):
    """
    Where a stream ends.

    Args:
        last: sequence of its last message.
        kept: if it was created again or lost its end since the consumer was begun with, the last sequence up to which
            it is still what it was; None if it was not.

    """

    last: int
    kept: int | None = None


class ConsumerPosition:
    """
    The position of one consumer.

    Args:
        connection: to NATS; it stays open.
        consumer: as declared.

    """

    def __init__(self, connection: Connection, consumer: ConsumerDeclaration) -> None:
        self.passed_over = 0
        """Messages the consumer was found to have passed over, and delivered again."""

        self._connection = connection
        self._consumer = consumer
        # With a filter, the numbers of the deliveries say nothing of the messages between them.
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
        self._is_ahead = False
        self._is_well = False

    def note(self, info: ConsumerInfo) -> None:
        """Note that the consumer is well, and how far everything is acknowledged."""
        self._acked, self._is_well = info.ack_floor.stream_seq, True

    def restart_at(self, sequence: int) -> None:
        """Have the consumer deliver again from *sequence* on when it is next begun with, or from before."""
        self._restart = min(self._restart or sequence, sequence)

    def lacks_body(self, message: Message) -> bool:
        """
        Return whether the server has left the body of *message* out: it is delivered again.

        One that comes so again, once the consumer was looked at, has none.
        """
        if (message.headers or {}).get("Nats-Msg-Size", "0") == "0":
            return False
        sequence = delivery_of(message).sequence
        self._bodiless = max(self._bodiless, sequence)
        if sequence <= self._bodiless_again:
            return False
        # Soon, and not only after its ack wait.
        self._dropped = min(self._dropped or sequence, sequence)
        return True

    def may_be_of_another_stream(self, message: Message) -> bool:
        """Return whether a message of at least this sequence was stored before *message*: it is not there any more."""
        delivery, (sequence, stored_ns) = delivery_of(message), self._newest
        self._newest = max(sequence, delivery.sequence), max(stored_ns, delivery.stored_ns)
        return sequence >= delivery.sequence and delivery.stored_ns > stored_ns

    def note_replaced(self, kept: int) -> None:
        """Note that the stream is what it was up to sequence *kept* only: what comes behind is delivered anew."""
        self._kept = kept if self._kept is None else min(self._kept, kept)
        self._acked = min(self._acked, kept)
        self._newest = (0, 0)

    async def begin(
        self, info: ConsumerInfo, *, is_pinned: bool, buffered: int = 0, end: StreamEnd | None = None
    ) -> None:
        """
        Go on with a consumer that is well, set back if it has to be; one that is pinned always is.

        Args:
            info: of the consumer.
            is_pinned: it is exclusive, and serves us.
            buffered: messages received from it before, or from an earlier one, and not yet taken.
            end: of its stream, if that is known: the consumer must not be ahead of it.

        Raises:
            Refused: it has passed messages over, and the server cannot set it back.
            NatsUnavailable: the server did not answer, or said no.

        """
        self._buffered = buffered
        if info.created != self._created:
            if self._created:
                # It was made anew since, and delivers everything.
                self._restart, self._dropped, self._kept = 0, 0, None
            self._created = info.created
            self._note_delivered(info.delivered)
        elif self._is_renumbered:
            self._note_delivered(info.delivered)
        self._follow(info.delivered, end)
        if self._dropped and await can_reset(self._connection):
            self.restart_at(self._dropped)
        start = self._restart or await self._left_out(info)
        self._kept, self._bodiless_again = None, self._bodiless
        if start:
            self.note(await self._set_back(start))
        elif is_pinned:
            info = await reset_consumer(self._connection, self._consumer)
            self._note_delivered(info.delivered)
            self.note(info)
        else:
            self.note(info)

    def _follow(self, delivered: Position, end: StreamEnd | None) -> None:
        """Have delivered again what comes behind a loss of the stream, and what a consumer ahead of it would miss."""
        if self._kept is not None and delivered.stream_seq > self._kept:
            self.restart_at(self._kept + 1)
        was_ahead, self._is_ahead = self._is_ahead, end is not None and delivered.stream_seq > end.last
        if end is not None and self._is_ahead:
            # What it delivered before the stream lost its end, and what is there now, cannot be told apart otherwise.
            start = self._acked + 1 if 0 < self._acked <= end.last else 1
            self.restart_at(start if self._kept is None else min(start, self._kept + 1))
            if not was_ahead:
                log.error(
                    "consumer.ahead_of_stream",
                    consumer=self._consumer.name,
                    delivered=delivered.stream_seq,
                    last_sequence=end.last,
                    reason="the stream was set back or lost its end; what it has is delivered again",
                )

    async def rewind(self, *, buffered: int = 0) -> None:
        """Set a consumer back that was found edited, behind what was acknowledged while it was well; once."""
        if not self._is_well:
            return
        self._buffered = buffered
        self.restart_at(self._acked + 1)
        self._is_well = False
        try:
            info = await show_consumer(self._connection, self._consumer)
            if info.created == self._created and await can_reset(self._connection):
                await self._set_back(self._restart)
        except ConsumerMissing:
            return
        except NatsUnavailable as exc:
            log.warning("consumer.not_set_back", consumer=self._consumer.name, reason=str(exc))

    def gap_in(self, messages: Sequence[Message]) -> tuple[int, Gap] | None:
        """Return the place of the first of *messages* behind a gap, and the gap, if there is one."""
        return self._gaps.find(messages) if self._gaps is not None else None

    async def explain(self, gap: Gap, message: Message) -> str:
        """
        Return why the consumer has to be begun with anew before *message* is taken, which stands behind *gap*.

        Empty if what lies in the gap was removed from the stream: *message* is taken then.

        Raises:
            NatsUnavailable: the server did not answer, or said no.

        """
        if gap.elsewhere or gap.is_renumbered:
            # Deliveries of other pullers may have been counted anew since the last one of ours.
            gap = gap._replace(after=max(gap.after, self._acked))
        is_suspect = gap.before - gap.after - 1 > gap.elsewhere
        missing = await passed_over(self._connection, self._consumer.stream, gap) if is_suspect else 0
        if missing:
            self.passed_over += missing
            self.restart_at(gap.after + 1)
            log.error(
                "consumer.passed_over",
                consumer=self._consumer.name,
                messages=missing,
                after=gap.after,
                before=gap.before,
                reason="it was edited, or its position was moved; it is set back, and delivers them now",
            )
            return PASSED_OVER
        if gap.is_renumbered:
            self._is_renumbered = True
            return "the consumer was set back by another puller"
        if self._gaps is not None:
            self._gaps.accept(message)
        return ""

    async def _left_out(self, info: ConsumerInfo) -> int:
        """Return from where an earlier reader of the consumer left messages out; 0 if none did."""
        acked, delivered = info.ack_floor, info.delivered
        if self._consumer.exclusive or delivered.stream_seq <= acked.stream_seq:
            return 0
        if not (await self._passes_over(info) or await self._has_given_up(info)):
            return 0
        if await can_reset(self._connection):
            return acked.stream_seq + 1
        log.error(
            "consumer.left_out",
            consumer=self._consumer.name,
            after=acked.stream_seq,
            before=delivered.stream_seq + 1,
            reason=f"messages may be passed over or given up, and this server cannot set it back; {self._remedy}",
        )
        return 0

    async def _passes_over(self, info: ConsumerInfo) -> bool:
        """Return whether there is a gap behind what is acknowledged."""
        acked, delivered = info.ack_floor, info.delivered
        gap = Gap(acked.stream_seq, delivered.stream_seq + 1, delivered.consumer_seq - acked.consumer_seq)
        is_suspect = gap.before - gap.after - 1 > gap.elsewhere and self._gaps is not None
        return is_suspect and await passed_over(self._connection, self._consumer.stream, gap) > 0

    async def _has_given_up(self, info: ConsumerInfo) -> bool:
        """Return whether messages are neither acknowledged nor waited for: it had a finite `max_deliver`."""
        if info.num_ack_pending:
            return False
        await asyncio.sleep(_SETTLING)
        again = await show_consumer(self._connection, self._consumer)
        return not again.num_ack_pending and again.ack_floor == info.ack_floor

    async def _set_back(self, start: int) -> ConsumerInfo:
        if not await can_reset(self._connection):
            raise Refused(
                f"consumer {self._consumer.name} has to deliver again from sequence {start} on, for messages were "
                f"passed over or the stream lost its end, and this server cannot set it back; {self._remedy}"
            )
        # Another puller may just have set it back further: what it waits for must not be passed over.
        acked = (await show_consumer(self._connection, self._consumer)).ack_floor.stream_seq
        info = await reset_consumer(self._connection, self._consumer, start=min(start, acked + 1))
        log.error("consumer.set_back", consumer=self._consumer.name, start=min(start, acked + 1))
        self._restart, self._dropped, self._kept = 0, 0, None
        self._note_delivered(info.delivered)
        return info

    def _note_delivered(self, last: Position) -> None:
        self._is_renumbered = False
        if self._gaps is not None:
            self._gaps.begin(last, uncounted=self._buffered)

    @property
    def _remedy(self) -> str:
        place = f"{self._consumer.stream} {self._consumer.name}"
        return f"delete it (nats consumer rm {place}): it is made anew, and reads the stream from its start"
