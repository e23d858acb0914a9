"""
Three ways to publish a burst of messages: a fast-ingest batch, an atomic batch, or plain publishes.

Plain publishes: each message has an answer of its own, and many are in flight at a time.

Atomic batches (ADR-50): the server stores all messages or none.  A server with `sync_interval: always` syncs each
atomic batch once since 2.15 (each message before): 20,000 to 60,000 messages a second, where fast-ingest batches and
plain publishes reach 4,000.

    Nats-Batch-Id: <batch>        on every message
    Nats-Batch-Sequence: <seq>    on every message, from 1
    Nats-Batch-Commit: 1          on the last message, the only one that is answered

A single id that is already stored refuses the whole batch (10201), and so does an id that is in flight (10158).  The
server does not say which id that was, so the messages are sent again as plain publishes, each with its own answer.

Fast-ingest batches (ADR-50): many messages, few answers.  The reply subject of each message describes the batch:

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
from typing import TYPE_CHECKING, Final, Self

from noetl_events.jetstream.errors import NatsUnavailable, PermissionDenied
from noetl_events.jetstream.publish.message import batch_command, command, command_with, control_command, publish_all
from noetl_events.jetstream.publish.replies import BatchFailed, ServerStatus, Verdict, batch_failure, judge
from noetl_events.jetstream.publish.reply_inbox import SILENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from noetl_events.jetstream.client import DirectClient
    from noetl_events.jetstream.publish.message import Outgoing
    from noetl_events.jetstream.publish.queue import PublishQueue
    from noetl_events.jetstream.publish.replies import Reply
    from noetl_events.jetstream.publish.reply_inbox import Exchange, ReplyInbox


class Window:
    """
    Collect the answers to the messages of one window; a context manager.

    A message may be sent several times.  The answer to each attempt counts, however late it arrives.

    Args:
        inbox: inbox for the answers.
        messages: messages that may be sent.
        on_stored: callback for each stored message, with its stream sequence.

    """

    def __init__(
        self, inbox: ReplyInbox, messages: Sequence[Outgoing], on_stored: Callable[[Sequence[Outgoing], int], None]
    ) -> None:
        self.silence = "no answer"
        """Reason for missing answers."""
        self.denial = ""
        """Error text of the server if it denies a subject of this window; empty otherwise."""
        self.is_heard = False
        """True if the stream itself has answered since the last attempt began."""
        self.has_duplicates = False
        """True if the stream reported a duplicate since this was last set to False."""

        self._inbox = inbox
        self._messages = messages
        self._on_stored = on_stored
        self._exchange: Exchange | None = None
        self._places = {str(place): message for place, message in enumerate(messages)}
        self._replies: dict[Outgoing, Reply] = {}
        self._missing: set[Outgoing] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._exchange is not None:
            self._inbox.forget(self._exchange)

    def reply_to(self, message: Outgoing) -> Reply | None:
        """Return the latest answer to *message*: to its last attempt, or to an earlier one that arrived since."""
        return self._replies.get(message)

    async def send(
        self, client: DirectClient, messages: Sequence[Outgoing], deadline: float, *, silence: float
    ) -> None:
        """Send *messages*, and return when all are answered, or after *silence* seconds without an answer."""
        self.is_heard = False
        self._missing = {message for message in messages if not message.settled}
        for message in messages:
            self._replies.pop(message, None)
        if self._exchange is None or self._exchange.is_lost:
            self.__exit__()
            self._exchange = self._inbox.exchange(self._take)
            self._exchange.subject = self._messages[0].subject
        try:
            await publish_all(client, messages, self._commands(self._exchange, messages))
            await self._exchange.until(self._is_answered, messages, deadline, silence=silence)
        except PermissionDenied as exc:
            self.denial = str(exc)
        except NatsUnavailable as exc:
            self.silence = str(exc)

    def _commands(self, exchange: Exchange, messages: Sequence[Outgoing]) -> list[bytes]:
        wanted, head = set(messages), exchange.reply_to.encode()
        return [
            command(message, b"%b.%b" % (head, place.encode()))
            for place, message in self._places.items()
            if message in wanted
        ]

    def _take(self, place: str, reply: Reply) -> None:
        message = self._places.get(place)
        # Another client may publish to the inbox, so the place may be any text.
        if message is None or message.settled:
            return
        self.is_heard = self.is_heard or not isinstance(reply, ServerStatus)
        self._replies[message] = reply
        self._missing.discard(message)
        if judge(reply) is Verdict.STORED:
            self.has_duplicates = self.has_duplicates or reply.duplicate
            self._on_stored((message,), reply.seq)

    def _is_answered(self) -> bool:
        return not self._missing


MOST: Final = 1_000
"""Most messages that the server accepts in one batch."""

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
        on_stored: callback for the stored messages, with the stream sequence of the last.
        patience: function that returns the deadline of `time.monotonic` for the answer to messages.

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
        """Messages sent or about to be sent, and not known to be stored, in order."""

        self._client = client
        self._on_stored = on_stored
        self._patience = patience
        self._answers: list[Reply] = []
        self._exchange = inbox.exchange(lambda _, reply: self._answers.append(reply))

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """
        Return when all of *messages* are stored.

        Raises:
            BatchesUnsupported: the messages, and all later ones, have to be sent some other way.
            BatchFailed: the answer is not a PubAck for all of them.

        """
        self.unsettled = messages
        with self._exchange as exchange:
            exchange.subject = messages[0].subject
            try:
                await publish_all(self._client, messages, _commands(messages, exchange))
                await exchange.until(
                    lambda: bool(self._answers), messages, self._patience(messages), silence=_ATOMIC_SILENCE
                )
            except NatsUnavailable as exc:
                raise BatchFailed(str(exc)) from exc
        if failure := batch_failure(self._answers[0], len(messages)):
            raise failure
        self.unsettled = ()
        self._on_stored(messages, self._answers[0].seq)

    @staticmethod
    def fits(messages: Sequence[Outgoing], limit: int) -> bool:
        """Return True if each of *messages* has at most *limit* bytes, headers of a batch included."""
        return all(message.size + _EXTRA_BYTES <= limit for message in messages)


def _commands(messages: Sequence[Outgoing], exchange: Exchange) -> Iterator[bytes]:
    lines = b"Nats-Batch-Id: %b\r\nNats-Batch-Sequence: %%d\r\n" % exchange.token.encode()
    for seq, message in enumerate(messages[:-1], 1):
        yield command_with(message, lines % seq, b"")
    commit = lines % len(messages) + b"Nats-Batch-Commit: 1\r\n"
    yield command_with(messages[-1], commit, exchange.reply_to.encode())


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
    Publish one fast-ingest batch.

    Args:
        inbox: inbox for the answers.
        client: connected client.
        outbox: queue with more messages for the batch.
        admit: function that returns the messages of a burst that may be sent.
        on_stored: callback for the stored messages, in order and each once, with the stream sequence of the last.
        patience: function that returns the deadline of `time.monotonic` for the answers to a burst.
        longest: number of messages after which the batch ends.

    """

    def __init__(
        self,
        inbox: ReplyInbox,
        client: DirectClient,
        outbox: PublishQueue,
        *,
        longest: int = LONGEST,
        admit: Callable[[DirectClient, list[Outgoing]], list[Outgoing]],
        on_stored: Callable[[Sequence[Outgoing], int], None],
        patience: Callable[[Sequence[Outgoing]], float],
    ) -> None:
        self.unsettled: list[Outgoing] = []
        """Messages sent or about to be sent, and not known to be stored, in order."""

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
        Return when *burst*, and all messages added to the same batch later, are stored.

        Raises:
            BatchesUnsupported: `unsettled`, and all later messages, have to be sent some other way.
            BatchFailed: the outcome of the messages in `unsettled` is unknown.

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
            lambda: bool(self._answers), self.unsettled, self._deadline, silence=_FAST_SILENCE, on_quiet=self._ask
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
