"""
Fast-ingest batches (ADR-50): many messages, one answer.

Everything about a batch stands in the reply subject of its messages:

    <inbox>.<batch>.<flow>.<gap>.<seq>.<op>.$FI

*flow* is how many messages one ack may cover, *gap* `fail` ends the batch at the first message lost on the way, *seq*
counts from 1, and *op* is 0 for the first, 1 for the next, 2 for the last.  The server sends acks while the batch runs,
and a PubAck at its end - also when it gave the batch up half-way: only the *count* in it tells.

Never send the ids of a batch with unknown outcome in a second one: a leader without a quorum takes them for duplicates
and acknowledges what nobody has stored.  By plain publish it answers that they are in process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from noetl_events.jetstream.batch_outcome import BatchFailed, BatchOutcome
from noetl_events.jetstream.commands import command, publish_all
from noetl_events.jetstream.errors import NatsUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nats.aio.client import Client

    from noetl_events.jetstream.inbox import Exchange, ReplyInbox
    from noetl_events.jetstream.outgoing import Outgoing

_FLOW: Final = 500
_START, _APPEND, _COMMIT = 0, 1, 2


async def send_fast_batch(inbox: ReplyInbox, client: Client, messages: Sequence[Outgoing], deadline: float) -> None:
    """
    Return when all of *messages* are stored.

    Raises:
        BatchesUnsupported: send them some other way, now and ever after.
        BatchFailed: anything but a PubAck over all of them.

    """
    outcome = BatchOutcome(len(messages))
    with inbox.exchange(outcome.take) as exchange:
        try:
            await publish_all(client, messages, map(command, messages, _replies(exchange, len(messages))))
            await exchange.finish(lambda: {message.subject for message in messages}, deadline)
        except NatsUnavailable as exc:
            raise BatchFailed(str(exc)) from exc
    if outcome.failure is not None:
        raise outcome.failure


def _replies(exchange: Exchange, count: int) -> Iterator[bytes]:
    head = f"{exchange.reply_to}.{_FLOW}.fail.".encode()
    for seq in range(1, count + 1):
        op = _COMMIT if seq == count else _START if seq == 1 else _APPEND
        yield b"%b%d.%d.$FI" % (head, seq, op)
