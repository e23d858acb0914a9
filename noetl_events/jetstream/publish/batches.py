"""
Two kinds of batches of a stream (ADR-50): atomic and fast-ingest.

Atomic batches: the server stores all messages or none.  A server with `sync_interval: always` syncs each atomic batch
once since 2.15 (each message before): 20,000 to 60,000 messages a second, where fast-ingest batches and plain publishes
reach 4,000.

    Nats-Batch-Id: <batch>        on every message
    Nats-Batch-Sequence: <seq>    on every message, from 1
    Nats-Batch-Commit: 1          on the last message, the only one that is answered

A single id that is already stored refuses the whole batch (10201), and so does an id that is in flight (10158).  The
server does not say which id that was, so the messages are sent again as plain publishes, each with its own answer.

Fast-ingest batches: many messages, few answers.  The reply subject of each message describes the batch:

    <inbox>.<batch>.<flow>.<gap>.<seq>.<op>.$FI

*flow* is the number of messages that one ack may cover.  A *gap* of `fail` ends the batch at the first message lost in
transit.  *seq* counts from 1.  *op* is 0 for the first message, 1 for the next ones, 2 for the last, 3 for an end that
is no message, and 4 for the question whether the batch is still known: a new leader knows no batch and answers so at
once.  The end of a batch is answered with a PubAck, also if the server aborted the batch half-way; a frame before it
then gives the reason, and only the *count* of the PubAck shows it.  Frames name no stream, so they decide nothing.

Only the PubAck confirms that messages are stored.  The server reports an id as a duplicate while its first message
still waits for a quorum and may be lost (server 2.15), and acks of frames cover such duplicates at once.  A PubAck with
a sequence means that the quorum has stored a message of this batch, and so everything that the leader had accepted
before.  A PubAck without a sequence means that every id was a duplicate, so the outcome is unknown.

A batch continues while there are messages to send, up to a bound.  After a failure the server stores nothing later of
the batch either, so messages that are sent again keep their order.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.publish.message import (
    batch_command,
    command_with,
    control_command,
    deadline_of,
    publish_all,
)
from noetl_events.jetstream.publish.replies import BatchFailed, sequence_of_batch
from noetl_events.jetstream.publish.reply_inbox import SILENCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from noetl_events.jetstream.client import DirectClient
    from noetl_events.jetstream.publish.message import Outgoing
    from noetl_events.jetstream.publish.outcomes import Outcomes
    from noetl_events.jetstream.publish.queue import PublishQueue
    from noetl_events.jetstream.publish.replies import Reply
    from noetl_events.jetstream.publish.reply_inbox import Exchange, ReplyInbox

MOST: Final = 1_000
"""Most messages that the server accepts in one atomic batch."""

_ATOMIC_SILENCE: Final = 2.0
"""Seconds without an answer after which the batch is sent again."""

_EXTRA_BYTES: Final = 160
"""Upper bound of the bytes that the headers of a batch add to a message."""


class AtomicBatch:
    """
    Publish one atomic batch.

    Args:
        inbox: inbox for the answer.
        client: connected client.
        messages: messages of the batch.
        timeout: seconds for the answer; more if the messages have later deadlines.

    """

    def __init__(
        self, inbox: ReplyInbox, client: DirectClient, messages: list[Outgoing], *, timeout: float = 0.0
    ) -> None:
        self.messages = messages
        self._client = client
        self._timeout = timeout
        self._replies: list[Reply] = []
        self._exchange = inbox.exchange(lambda _, reply: self._replies.append(reply))
        self._exchange.subject = messages[0].subject

    async def send(self) -> int:
        """
        Send the batch, wait for the answer, and return the stream sequence of its last message.

        Raises:
            BatchesUnsupported: the stream or its server supports no such batches.
            BatchFailed: the answer is no PubAck for all messages.

        """
        with self._exchange:
            try:
                await publish_all(self._client, self.messages, self._commands())
                deadline = deadline_of(self.messages, timeout=self._timeout)
                await self._exchange.until(
                    lambda: bool(self._replies), self.messages, deadline, silence=_ATOMIC_SILENCE
                )
            except NatsUnavailable as exc:
                raise BatchFailed(str(exc)) from exc
        return sequence_of_batch(self._replies[0], len(self.messages))

    def _commands(self) -> Iterator[bytes]:
        lines = b"Nats-Batch-Id: %b\r\nNats-Batch-Sequence: %%d\r\n" % self._exchange.token.encode()
        for seq, message in enumerate(self.messages[:-1], 1):
            yield command_with(message, lines % seq, b"")
        commit = lines % len(self.messages) + b"Nats-Batch-Commit: 1\r\n"
        yield command_with(self.messages[-1], commit, self._exchange.reply_to.encode())

    @staticmethod
    def fits(messages: Sequence[Outgoing], limit: int) -> bool:
        """Return True if each of *messages* has at most *limit* bytes, headers of a batch included."""
        return all(message.size + _EXTRA_BYTES <= limit for message in messages)


BURST: Final = 125
"""Most messages in one write."""

# The server sends an ack after each so many messages, so a client sees that it still answers.
_FLOW: Final = 250
# A batch ends at either bound: all of it waits for the end, and is sent again if the PubAck is missing.
LONGEST: Final = 4_000
_LONGEST_BYTES: Final = 2 * 1024 * 1024
_START, _APPEND, _COMMIT, _END, _ASK = 0, 1, 2, 3, 4
# A server rarely pauses for longer; after a shorter pause it still knows the batch, and sends the PubAck.
_FAST_SILENCE: Final = 2 * SILENCE


class FastBatch:
    """
    Publish one fast-ingest batch, which continues while the queue has messages for it.

    Args:
        inbox: inbox for the answers.
        client: connected client.
        burst: first messages of the batch.
        queue: queue with more messages for the batch.
        outcomes: outcomes of the messages.
        timeout: seconds for the answers to a burst; more if its messages have later deadlines.
        longest: number of messages after which the batch ends.

    """

    def __init__(
        self,
        inbox: ReplyInbox,
        client: DirectClient,
        burst: list[Outgoing],
        *,
        queue: PublishQueue,
        outcomes: Outcomes,
        timeout: float,
        longest: int,
    ) -> None:
        self.messages: list[Outgoing] = []
        """Messages sent or about to be sent, in order."""

        self._client = client
        self._first_burst = burst
        self._queue = queue
        self._outcomes = outcomes
        self._timeout = timeout
        self._longest = longest
        self._replies: list[Reply] = []
        self._exchange: Exchange = inbox.exchange(lambda _, reply: self._replies.append(reply))
        self._head = f"{self._exchange.reply_to}.{_FLOW}.fail.".encode()
        self._bytes = 0
        self._deadline = 0.0
        self._is_ended = False

    async def send(self) -> int:
        """
        Send the batch, wait for the answer, and return the stream sequence of its last message.

        Raises:
            BatchesUnsupported: the stream or its server supports no such batches.
            BatchFailed: the answer is no PubAck for all messages.

        """
        with self._exchange:
            try:
                await self._append(self._first_burst)
                while not self._is_ended and not self._replies:
                    await self._continue()
                await self._exchange.until(
                    lambda: bool(self._replies),
                    self.messages,
                    self._deadline,
                    silence=_FAST_SILENCE,
                    on_quiet=self._ask,
                )
            except NatsUnavailable as exc:
                raise BatchFailed(str(exc)) from exc
        return sequence_of_batch(self._replies[0], len(self.messages))

    async def _append(self, burst: Sequence[Outgoing]) -> None:
        first = len(self.messages) + 1
        self.messages += burst
        self._exchange.subject = burst[0].subject
        self._bytes += sum(message.size for message in burst)
        self._deadline = deadline_of(burst, timeout=self._timeout)
        self._is_ended = self._queue.is_drained or len(self.messages) >= self._longest or self._bytes >= _LONGEST_BYTES
        await publish_all(self._client, burst, self._commands(burst, first))

    def _commands(self, burst: Sequence[Outgoing], first: int) -> list[bytes]:
        commands = [
            batch_command(message, self._head, seq, _START if seq == 1 else _APPEND)
            for seq, message in enumerate(burst, first)
        ]
        if self._is_ended:
            commands[-1] = batch_command(burst[-1], self._head, len(self.messages), _COMMIT)
        return commands

    async def _continue(self) -> None:
        burst = self._queue.next_burst(BURST, certain=True)
        if burst := self._outcomes.admit(burst, self._client.max_payload):
            await self._append(burst)
        elif self._queue.is_filling:
            await asyncio.sleep(0)
        else:
            self._is_ended = True
            await self._control(_END, len(self.messages) + 1)

    async def _ask(self) -> None:
        await self._control(_ASK, len(self.messages))

    async def _control(self, operation: int, seq: int) -> None:
        await publish_all(self._client, (), [control_command(self.messages[0].subject, self._head, seq, operation)])
