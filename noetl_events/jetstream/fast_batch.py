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

from noetl_events.jetstream.commands import publish_all
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.replies import BATCHES_DISABLED, explain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nats.aio.client import Client

    from noetl_events.jetstream.inbox import Exchange, ReplyInbox
    from noetl_events.jetstream.outgoing import Outgoing
    from noetl_events.jetstream.replies import Reply

_FLOW: Final = 500
_START, _APPEND, _COMMIT = 0, 1, 2


class BatchFailed(Exception):
    """Which messages of the batch are stored is unknown."""


class BatchesUnsupported(BatchFailed):
    """The stream or its server has no such batches: it stored each message by itself, in order, or none."""


async def send_fast_batch(inbox: ReplyInbox, client: Client, messages: Sequence[Outgoing], deadline: float) -> None:
    """
    Return when all of *messages* are stored.

    Raises:
        BatchesUnsupported: send them some other way, now and ever after.
        BatchFailed: anything but a PubAck over all of them.

    """
    outcome = _Outcome(len(messages))
    with inbox.exchange(outcome.take) as exchange:
        try:
            await publish_all(client, messages, _replies(exchange, len(messages)))
            await exchange.finish(lambda: {message.subject for message in messages}, deadline)
        except NatsUnavailable as exc:
            raise BatchFailed(str(exc)) from exc
    if outcome.failure is not None:
        raise outcome.failure


class _Outcome:
    def __init__(self, expected: int) -> None:
        self._expected = expected
        self.failure: BatchFailed | None = None

    def take(self, _control: str, reply: Reply) -> bool:
        """Read one frame; return whether it was the last that matters."""
        if reply.type == "ack":
            return False
        if reply.error is not None:
            unsupported = reply.error.err_code in BATCHES_DISABLED
            self.failure = (BatchesUnsupported if unsupported else BatchFailed)(explain(reply))
        elif reply.type:
            self.failure = BatchFailed(f"the server reports: {reply.type}")
        elif not reply.batch:
            self.failure = BatchesUnsupported("the server takes each message of a batch by itself")
        elif reply.count != self._expected:
            self.failure = BatchFailed(f"{reply.count} of {self._expected} messages acknowledged")
        return True


def _replies(exchange: Exchange, count: int) -> Iterator[bytes]:
    head = f"{exchange.reply_to}.{_FLOW}.fail.".encode()
    for seq in range(1, count + 1):
        op = _COMMIT if seq == count else _START if seq == 1 else _APPEND
        yield b"%b%d.%d.$FI" % (head, seq, op)
