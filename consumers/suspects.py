"""
Messages that may have killed the process before, written in ever smaller parts until the culprit stands alone.

A message delivered again was in hand when a process died, or a connection.  It says nothing of which of thousands it
was, so the second time they are written in parts of 100, the third time of 10, and from then on one by one, each on
trial: the trial is noted in the dead-letter stream before the write, and struck out when the process has survived it.
A message whose trials ended so often in silence is the one.

    delivery     1                2      3     4 and later
    written in   whole batches    100s   10s   alone, on trial
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

import msgspec

from noetl_events.jetstream.delivery import attempt_of, delivery_of
from noetl_events.jetstream.store import last_payload, store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.delivery import Message

_PART_SIZES: Final = {2: 100, 3: 10}
_FATAL_TRIALS: Final = 2
FATAL: Final = f"the process died {_FATAL_TRIALS} times while it wrote this event, and this one alone"
TRIAL: Final = "trial"
"""What notes of trials have in place of a dead letter's kind."""


class Part(msgspec.Struct, frozen=True):
    """Messages that are written together, and whether they are suspects."""

    messages: list[Message]
    suspected: bool = False
    on_trial: bool = False


def parts_of(messages: Sequence[Message]) -> Iterator[Part]:
    """Yield *messages* in their order, in parts as large as their deliveries allow."""
    for attempt, run in groupby(messages, attempt_of):
        group = list(run)
        size = len(group) if attempt == 1 else _PART_SIZES.get(attempt, 1)
        for start in range(0, len(group), size):
            yield Part(group[start : start + size], attempt > 1, attempt > max(_PART_SIZES))


class Trials:
    """
    The trials of messages of one graveyard.

    Args:
        connection: to NATS; it stays open.
        stream: of the dead letters.
        prefix: of its subjects.

    """

    def __init__(self, connection: Connection, *, stream: str, prefix: str) -> None:
        self._connection = connection
        self._stream = stream
        self._prefix = prefix

    async def begin(self, message: Message) -> bool:
        """
        Note that *message* is tried now; return False if it must not be, having killed too often.

        Raises:
            NatsUnavailable: it may not be noted; do not try it.

        """
        silent = int(await last_payload(self._connection, self._stream, self._subject(message)) or 0)
        if silent >= _FATAL_TRIALS:
            return False
        await self._note(message, silent + 1)
        return True

    async def survive(self, message: Message) -> None:
        """
        Strike out the trials of *message*: the process lives, whatever came of it.

        Raises:
            NatsUnavailable: it may not be noted.

        """
        await self._note(message, 0)

    async def _note(self, message: Message, silent: int) -> None:
        await store(self._connection, self._subject(message), b"%d" % silent, {"Noetl-Kind": TRIAL})

    def _subject(self, message: Message) -> str:
        delivery = delivery_of(message)
        # Sequences start again in a stream created anew; with the time the place is unique.
        return f"{self._prefix}.{TRIAL}.{delivery.consumer}.{delivery.sequence}-{delivery.stored_ns}"
