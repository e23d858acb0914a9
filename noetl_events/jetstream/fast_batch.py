"""
Fast-ingest batches (ADR-50): many messages, few answers.

Everything about a batch stands in the reply subject of its messages:

    <inbox>.<batch>.<flow>.<gap>.<seq>.<op>.$FI

*flow* is how many messages one ack may cover, *gap* `fail` ends the batch at the first message lost on the way, *seq*
counts from 1, and *op* is 0 for the first, 1 for the next, 2 for the last, 3 for an end that is no message.  With
gap=fail an ack says that everything up to its sequence is stored.  At the end there is a PubAck, also when the server
gave the batch up half-way: only the *count* in it tells.

A batch goes on as long as there is something to send: bursts are appended while the server still works on the ones
before.  After a failure nothing later is stored either, so what is sent again keeps its order.

Never send the ids of a batch with unknown outcome in a second one: a leader without a quorum takes them for duplicates
and acknowledges what nobody has stored.  By plain publish it answers that they are in process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from noetl_events.jetstream.batch_outcome import BatchFailed, batch_failure
from noetl_events.jetstream.commands import batch_command, end_command, publish_all
from noetl_events.jetstream.errors import NatsUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nats.aio.client import Client

    from noetl_events.jetstream.inbox import Exchange, ReplyInbox
    from noetl_events.jetstream.outbox import Outbox
    from noetl_events.jetstream.outgoing import Outgoing
    from noetl_events.jetstream.replies import Reply

BURST: Final = 125
"""Messages sent in one write."""

# The server acks at least so often.
_FLOW: Final = 250
# Unacknowledged messages, and bytes, past which nothing is appended: acks come several at a time, and with half of this
# the server often has nothing to do until the next burst is encoded.
_WINDOW: Final = 4_000
_WINDOW_BYTES: Final = 2 * 1024 * 1024
_START, _APPEND, _COMMIT, _END = 0, 1, 2, 3


class FastBatch:
    """
    One batch, until its last message is stored.

    Args:
        inbox: for the answers.
        client: connected.
        outbox: where there may be more.
        admit: gives what of a burst may be sent.
        on_stored: takes the messages that are stored, in order, each once.
        patience: gives the time, of `time.monotonic`, until which a burst may wait for its answers.

    """

    def __init__(
        self,
        inbox: ReplyInbox,
        client: Client,
        outbox: Outbox,
        *,
        admit: Callable[[Client, list[Outgoing]], list[Outgoing]],
        on_stored: Callable[[Sequence[Outgoing]], None],
        patience: Callable[[Sequence[Outgoing]], float],
    ) -> None:
        self.unsettled: deque[Outgoing] = deque()
        """Sent or about to be, and not known to be stored, in order."""

        self._client = client
        self._outbox = outbox
        self._admit = admit
        self._on_stored = on_stored
        self._patience = patience
        self._exchange: Exchange = inbox.exchange(self._hear)
        self._head = f"{self._exchange.reply_to}.{_FLOW}.fail.".encode()
        self._sent = 0
        self._stored = 0
        self._bytes = 0
        self._deadline = 0.0
        self._is_ended = False
        self._is_over = False
        self._failure: BatchFailed | None = None

    async def send(self, burst: Sequence[Outgoing]) -> None:
        """
        Return when *burst*, and whatever came after it, is stored.

        Raises:
            BatchesUnsupported: send `unsettled` some other way, and all others now and ever after.
            BatchFailed: which of `unsettled` are stored is unknown.

        """
        with self._exchange:
            try:
                await self._append(burst)
                while not self._is_ended and not self._is_over:
                    await self._go_on(burst[0].subject)
                await self._hear_until(lambda: self._is_over)
            except NatsUnavailable as exc:
                raise BatchFailed(str(exc)) from exc
        if self._failure is not None:
            raise self._failure

    async def _go_on(self, subject: str) -> None:
        has_room = len(self.unsettled) < _WINDOW and self._bytes < _WINDOW_BYTES
        if has_room and (burst := self._admit(self._client, self._outbox.next_burst(BURST, certain=True))):
            await self._append(burst)
        elif has_room and self._outbox.is_filling:
            await asyncio.sleep(0)
        elif self._is_ack_due():
            left = len(self.unsettled)
            await self._hear_until(lambda: self._is_over or len(self.unsettled) < left)
        else:
            await self._end(subject)

    async def _append(self, burst: Sequence[Outgoing]) -> None:
        self.unsettled += burst
        self._bytes += sum(message.size for message in burst)
        self._deadline = self._patience(burst)
        self._is_ended = self._outbox.is_drained and not self._is_ack_due()
        await publish_all(self._client, burst, self._commands(burst))

    async def _end(self, subject: str) -> None:
        self._is_ended = True
        await publish_all(self._client, (), [end_command(subject, self._head, self._sent + 1, _END)])

    def _is_ack_due(self) -> bool:
        """Whether the server will say something without being told that this is the end."""
        return len(self.unsettled) >= _FLOW

    async def _hear_until(self, is_met: Callable[[], bool]) -> None:
        await self._exchange.until(is_met, self.unsettled, self._deadline)

    def _commands(self, burst: Sequence[Outgoing]) -> list[bytes]:
        first, self._sent = self._sent + 1, self._sent + len(burst)
        commands = [
            batch_command(message, self._head, seq, _START if seq == 1 else _APPEND)
            for seq, message in enumerate(burst, first)
        ]
        if self._is_ended:
            commands[-1] = batch_command(burst[-1], self._head, self._sent, _COMMIT)
        return commands

    def _hear(self, _control: str, reply: Reply) -> None:
        if self._is_over:
            return
        if reply.type == "ack":
            self._store_up_to(reply.seq)
            return
        self._is_over = True
        self._failure = batch_failure(reply, self._sent)
        if self._failure is None:
            self._store_up_to(self._sent)

    def _store_up_to(self, seq: int) -> None:
        stored = [self.unsettled.popleft() for _ in range(min(seq, self._sent) - self._stored)]
        if stored:
            self._stored += len(stored)
            self._bytes -= sum(message.size for message in stored)
            self._on_stored(stored)
