"""
Gaps in the deliveries of a consumer: messages of the stream that it has skipped.

A consumer without filters counts its deliveries, and each first delivery is one message of the stream.  So the stream
sequences of the deliveries must not grow faster than their numbers, except over removed messages.  If they do, and the
stream still has the messages between, there is a gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from noetl_events.jetstream.api import ask
from noetl_events.jetstream.consumers import SequenceInfo
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.message import delivery_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.message import Delivery, Message

# The server lists the removed sequences, 100 kB for this many.  With more, gaps are not detected.
_MOST_REMOVED: Final = 10_000


class Gap(NamedTuple):
    """
    A range of sequences without a known delivery.

    Args:
        after: last sequence before the gap.
        before: first sequence after the gap.
        elsewhere: deliveries in the meantime that other pullers may have received, each for one of these sequences.
        is_renumbered: True if the consumer's delivery numbers restarted after deliveries to other pullers.

    """

    after: int
    before: int
    elsewhere: int = 0
    is_renumbered: bool = False


class GapDetector:
    """Find gaps in the deliveries of a consumer without filters, in the order of their arrival."""

    def __init__(self) -> None:
        self._last = SequenceInfo()
        self._uncounted = 0

    def start(self, last: SequenceInfo, *, uncounted: int = 0) -> None:
        """Start after the delivery *last*; the next *uncounted* messages were numbered before the numbers restarted."""
        self._last, self._uncounted = last, uncounted

    def find(self, messages: Sequence[Message]) -> tuple[int, Gap] | None:
        """Return the index of the first of *messages* after a gap, and the gap; the messages before it are recorded."""
        passed = min(self._uncounted, len(messages))
        self._uncounted -= passed
        found = self._find(messages[passed:]) if passed < len(messages) else None
        return None if found is None else (passed + found[0], found[1])

    def _find(self, messages: Sequence[Message]) -> tuple[int, Gap] | None:
        first, last = delivery_of(messages[0]), delivery_of(messages[-1])
        if self._accounts_for(last) and _are_fresh(messages, first):
            self._record(last)
            return None
        for place, message in enumerate(messages):
            delivery = delivery_of(message)
            if (gap := self._gap_before(delivery)) is not None:
                return place, gap
            self._record(delivery)
        return None

    def accept(self, message: Message) -> None:
        """Record *message*, despite a gap before it."""
        self._record(delivery_of(message))

    def _accounts_for(self, delivery: Delivery) -> bool:
        return 0 < delivery.number - self._last.consumer_seq == delivery.sequence - self._last.stream_seq

    def _gap_before(self, delivery: Delivery) -> Gap | None:
        deliveries = delivery.number - self._last.consumer_seq
        if deliveries <= 0:
            return Gap(self._last.stream_seq, delivery.sequence, delivery.number - 1, is_renumbered=True)
        if delivery.attempt > 1 or delivery.sequence - self._last.stream_seq <= deliveries:
            return None
        return Gap(self._last.stream_seq, delivery.sequence, deliveries - 1)

    def _record(self, delivery: Delivery) -> None:
        if delivery.attempt == 1:
            self._last = SequenceInfo(delivery.sequence, delivery.number)
        else:
            # A redelivery has a delivery number of its own, but is no further message of the stream.
            self._last = SequenceInfo(self._last.stream_seq, self._last.consumer_seq + 1)


class _State(msgspec.Struct, frozen=True):
    first_seq: int = 0
    num_deleted: int = 0
    deleted: list[int] = msgspec.field(default_factory=list)


class _Answer(msgspec.Struct, frozen=True):
    state: _State | None = None


_decode = msgspec.json.Decoder(_Answer).decode


async def passed_over(connection: Connection, stream: str, gap: Gap) -> int:
    """
    Return how many messages in *gap* are still in *stream* and were delivered to no puller.

    Raises:
        NatsUnavailable: the server did not answer, or answered with an error.

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
            f"stream {stream}: {error.description if error is not None else 'the answer has no state'}"
        )
    return state


def _are_fresh(messages: Sequence[Message], first: Delivery) -> bool:
    """Return True if all *messages* are first deliveries, judged by the prefixes of their ack subjects."""
    if first.attempt != 1:
        return False
    reply = messages[0].reply
    # The prefix ends with the attempt, in either form of the subject.
    tail = reply.rindex(f".1.{first.sequence}.{first.number}.")
    beginning = reply[: tail + 3]
    return all(message.reply.startswith(beginning) for message in messages)
