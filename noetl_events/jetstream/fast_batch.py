"""
Fast-ingest batches (ADR-50): many messages, few answers.

Everything about a batch stands in the reply subject of its messages:

    <inbox>.<batch>.<flow>.<gap>.<seq>.<op>.$FI

*flow* is how many messages one ack may cover, *gap* `fail` ends the batch at the first message lost on the way, *seq*
counts from 1, and *op* is 0 for the first, 1 for the next, 2 for the last, 3 for an end that is no message, 4 for the
question whether the batch is still known: another leader knows none, and says so at once.  At the end
there is a PubAck, also when the server gave the batch up half-way, after a frame that says why: only the *count* in it
tells.  Frames name no stream, so nothing follows from them.

The PubAck alone says that anything is stored.  An id counts as a duplicate while its first message waits for a quorum,
and may yet be lost (server 2.15): acks under way cover such duplicates at once.  Where the PubAck has a sequence, the
quorum has taken a message of this very batch, and with it all that the leader had taken before.  Where it has none,
every id was a duplicate, and nothing is known.

A batch goes on as long as there is something to send, up to a bound.  After a failure nothing later is stored either,
so what is sent again keeps its order.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from noetl_events.jetstream.batch_outcome import BatchFailed, batch_failure
from noetl_events.jetstream.commands import batch_command, control_command, publish_all
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.inbox import SILENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from noetl_events.jetstream.direct_client import DirectClient
    from noetl_events.jetstream.inbox import Exchange, ReplyInbox
    from noetl_events.jetstream.outbox import Outbox
    from noetl_events.jetstream.outgoing import Outgoing
    from noetl_events.jetstream.replies import Reply

BURST: Final = 125
"""Messages sent in one write."""

# The server says so often that it is alive.
_FLOW: Final = 250
# Past either a batch is ended: all of it waits for the end, and is sent again if that does not come.
LONGEST: Final = 4_000
_LONGEST_BYTES: Final = 2 * 1024 * 1024
_START, _APPEND, _COMMIT, _END, _ASK = 0, 1, 2, 3, 4
# Longer than a server halts for, as a rule: then the batch is still known, and its PubAck comes.
_SILENCE: Final = 2 * SILENCE


class FastBatch:
    """
    One batch, until its last message is stored.

    Args:
        inbox: for the answers.
        client: connected.
        outbox: where there may be more.
        admit: gives what of a burst may be sent.
        on_stored: takes the messages that are stored, in order, each once, and the sequence of the last.
        patience: gives the time, of `time.monotonic`, until which a burst may wait for its answers.
        longest: the messages after which it is ended.

    """

    def __init__(
        self,
        inbox: ReplyInbox,
        client: DirectClient,
        outbox: Outbox,
        *,
        longest: int = LONGEST,
        admit: Callable[[DirectClient, list[Outgoing]], list[Outgoing]],
        on_stored: Callable[[Sequence[Outgoing], int], None],
        patience: Callable[[Sequence[Outgoing]], float],
    ) -> None:
        self.unsettled: list[Outgoing] = []
        """Sent or about to be, and not known to be stored, in order."""

        self._client = client
        self._outbox = outbox
        self._admit = admit
        self._on_stored = on_stored
        self._patience = patience
        self._longest = longest
        self._exchange: Exchange = inbox.exchange(self._hear)
        self._head = f"{self._exchange.reply_to}.{_FLOW}.fail.".encode()
        self._bytes = 0
        self._deadline = 0.0
        self._is_ended = False
        self._answers: list[Reply] = []

    async def send(self, burst: Sequence[Outgoing]) -> None:
        """
        Return when *burst*, and what came after it into the same batch, is stored.

        Raises:
            BatchesUnsupported: send `unsettled` some other way, and all others now and ever after.
            BatchFailed: which of `unsettled` are stored is unknown.

        """
        with self._exchange:
            try:
                answer = await self._exchange_all(burst)
            except NatsUnavailable as exc:
                raise BatchFailed(str(exc)) from exc
        if failure := batch_failure(answer, len(self.unsettled)):
            raise failure
        stored, self.unsettled = self.unsettled, []
        self._on_stored(stored, answer.seq)

    async def _exchange_all(self, burst: Sequence[Outgoing]) -> Reply:
        await self._append(burst)
        while not self._is_ended and not self._answers:
            await self._go_on()
        await self._exchange.until(
            lambda: bool(self._answers), self.unsettled, self._deadline, silence=_SILENCE, on_quiet=self._ask
        )
        return self._answers[0]

    async def _go_on(self) -> None:
        if burst := self._admit(self._client, self._outbox.next_burst(BURST, certain=True)):
            await self._append(burst)
        elif self._outbox.is_filling:
            await asyncio.sleep(0)
        else:
            await self._end()

    async def _append(self, burst: Sequence[Outgoing]) -> None:
        first = len(self.unsettled) + 1
        self.unsettled += burst
        self._exchange.subject = burst[0].subject
        self._bytes += sum(message.size for message in burst)
        self._deadline = self._patience(burst)
        self._is_ended = self._outbox.is_drained or self._is_full()
        await publish_all(self._client, burst, self._commands(burst, first))

    def _is_full(self) -> bool:
        return len(self.unsettled) >= self._longest or self._bytes >= _LONGEST_BYTES

    async def _end(self) -> None:
        self._is_ended = True
        await self._control(_END, len(self.unsettled) + 1)

    async def _ask(self) -> None:
        await self._control(_ASK, len(self.unsettled))

    async def _control(self, operation: int, seq: int) -> None:
        await publish_all(self._client, (), [control_command(self.unsettled[0].subject, self._head, seq, operation)])

    def _commands(self, burst: Sequence[Outgoing], first: int) -> list[bytes]:
        commands = [
            batch_command(message, self._head, seq, _START if seq == 1 else _APPEND)
            for seq, message in enumerate(burst, first)
        ]
        if self._is_ended:
            commands[-1] = batch_command(burst[-1], self._head, len(self.unsettled), _COMMIT)
        return commands

    def _hear(self, _control: str, reply: Reply) -> None:
        self._answers.append(reply)
