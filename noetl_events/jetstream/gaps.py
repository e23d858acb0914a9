"""
Gaps: messages of the stream that a consumer has passed over.

A consumer without filters counts its deliveries, and each delivery for the first time takes one message of the stream.
So the sequences of the stream must not run ahead of the deliveries, except over messages that were removed.  Where they
do, and the stream still has what lies between, somebody has let the consumer pass it over: a filter was set and taken
away again, or its position was moved.  The configuration shows no trace of that afterwards; the numbers do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from noetl_events.jetstream.api import ask
from noetl_events.jetstream.consumers import Position
from noetl_events.jetstream.delivery import delivery_of
from noetl_events.jetstream.errors import NatsUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.delivery import Delivery, Message

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
