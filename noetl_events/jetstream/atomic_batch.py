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

from noetl_events.jetstream.batch_outcome import BatchFailed, BatchOutcome
from noetl_events.jetstream.commands import command_with, publish_all
from noetl_events.jetstream.errors import NatsUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nats.aio.client import Client

    from noetl_events.jetstream.inbox import Exchange, ReplyInbox
    from noetl_events.jetstream.outgoing import Outgoing

EXTRA_BYTES: Final = 160
"""What the headers of a batch add to a message, at most."""


async def send_atomic_batch(inbox: ReplyInbox, client: Client, messages: Sequence[Outgoing], deadline: float) -> None:
    """
    Return when all of *messages* are stored.

    Raises:
        BatchesUnsupported: send them some other way, now and ever after.
        BatchFailed: anything but a PubAck over all of them.

    """
    outcome = BatchOutcome(len(messages))
    with inbox.exchange(outcome.take) as exchange:
        try:
            await publish_all(client, messages, _commands(messages, exchange))
            await exchange.finish(lambda: {message.subject for message in messages}, deadline)
        except NatsUnavailable as exc:
            raise BatchFailed(str(exc)) from exc
    if outcome.failure is not None:
        raise outcome.failure


def _commands(messages: Sequence[Outgoing], exchange: Exchange) -> Iterator[bytes]:
    lines = b"Nats-Batch-Id: %b\r\nNats-Batch-Sequence: %%d\r\n" % exchange.token.encode()
    for seq, message in enumerate(messages[:-1], 1):
        yield command_with(message, lines % seq, b"")
    commit = lines % len(messages) + b"Nats-Batch-Commit: 1\r\n"
    yield command_with(messages[-1], commit, exchange.reply_to.encode())
