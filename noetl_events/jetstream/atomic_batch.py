"""
Atomic batches (ADR-50): all messages are stored, or none, and a server told to sync always does it once a batch.

With `sync_interval: always` a server before 2.15 syncs each message, a later one each atomic batch: 20,000 to 60,000
messages a second where fast-ingest batches and plain publishes reach 4,000.

    Nats-Batch-Id: <batch>        on every message
    Nats-Batch-Sequence: <seq>    likewise, from 1
    Nats-Batch-Commit: 1          on the last, which alone is answered

One id that is stored already refuses the whole batch (10201), one that is under way likewise (10158).  Which one it was
the server does not say: sent again one by one, each message gets an answer of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from noetl_events.jetstream.batch_outcome import BatchFailed, batch_failure
from noetl_events.jetstream.commands import command_with, publish_all
from noetl_events.jetstream.errors import NatsUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from noetl_events.jetstream.direct_client import DirectClient
    from noetl_events.jetstream.inbox import Exchange, ReplyInbox
    from noetl_events.jetstream.outgoing import Outgoing
    from noetl_events.jetstream.replies import Reply

MOST: Final = 1_000
"""Messages the server takes in one batch."""

_SILENCE: Final = 2.0
"""Seconds without an answer after which it is sent again."""

_EXTRA_BYTES: Final = 160
"""What the headers of a batch add to a message, at most."""


class AtomicBatch:
    """
    One batch, until it is stored.

    Args:
        inbox: for the answer.
        client: connected.
        on_stored: takes the messages once they are, and the sequence of the last.
        patience: gives the time, of `time.monotonic`, until which they may wait for the answer.

    """

    def __init__(
        self,
        inbox: ReplyInbox,
        client: DirectClient,
        *,
        on_stored: Callable[[Sequence[Outgoing], int], None],
        patience: Callable[[Sequence[Outgoing]], float],
    ) -> None:
        self.unsettled: Sequence[Outgoing] = ()
        """Sent or about to be, and not known to be stored, in order."""

        self._client = client
        self._on_stored = on_stored
        self._patience = patience
        self._answers: list[Reply] = []
        self._exchange = inbox.exchange(lambda _, reply: self._answers.append(reply))

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """
        Return when all of *messages* are stored.

        Raises:
            BatchesUnsupported: send them some other way, now and ever after.
            BatchFailed: anything but a PubAck over all of them.

        """
        self.unsettled = messages
        with self._exchange as exchange:
            exchange.subject = messages[0].subject
            try:
                await publish_all(self._client, messages, _commands(messages, exchange))
                await exchange.until(lambda: bool(self._answers), messages, self._patience(messages), silence=_SILENCE)
            except NatsUnavailable as exc:
                raise BatchFailed(str(exc)) from exc
        if failure := batch_failure(self._answers[0], len(messages)):
            raise failure
        self.unsettled = ()
        self._on_stored(messages, self._answers[0].seq)

    @staticmethod
    def fits(messages: Sequence[Outgoing], limit: int) -> bool:
        """Whether none of *messages* is larger than *limit* bytes with the headers of a batch."""
        return all(message.size + _EXTRA_BYTES <= limit for message in messages)


def _commands(messages: Sequence[Outgoing], exchange: Exchange) -> Iterator[bytes]:
    lines = b"Nats-Batch-Id: %b\r\nNats-Batch-Sequence: %%d\r\n" % exchange.token.encode()
    for seq, message in enumerate(messages[:-1], 1):
        yield command_with(message, lines % seq, b"")
    commit = lines % len(messages) + b"Nats-Batch-Commit: 1\r\n"
    yield command_with(messages[-1], commit, exchange.reply_to.encode())
