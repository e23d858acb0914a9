"""
Three ways to publish a burst of messages: a fast-ingest batch, an atomic batch, or each message plainly.

Plain publishes are many under way at a time, each with an answer of its own.

Atomic batches (ADR-50): all messages are stored, or none, and a server told to sync always does it once a batch.

With `sync_interval: always` a server before 2.15 syncs each message, a later one each atomic batch: 20,000 to 60,000
messages a second where fast-ingest batches and plain publishes reach 4,000.

    Nats-Batch-Id: <batch>        on every message
    Nats-Batch-Sequence: <seq>    likewise, from 1
    Nats-Batch-Commit: 1          on the last, which alone is answered

One id that is stored already refuses the whole batch (10201), one that is under way likewise (10158).  Which one it was
the server does not say: sent again one by one, each message gets an answer of its own.

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
from typing import TYPE_CHECKING, Final, Self

from noetl_events.jetstream.errors import NatsUnavailable, PermissionDenied
from noetl_events.jetstream.publish.message import batch_command, command, command_with, control_command, publish_all
from noetl_events.jetstream.publish.replies import BatchFailed, ServerStatus, Verdict, batch_failure, judge
from noetl_events.jetstream.publish.reply_inbox import SILENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from noetl_events.jetstream.client import DirectClient
    from noetl_events.jetstream.publish.message import Outgoing
    from noetl_events.jetstream.publish.queue import Outbox
    from noetl_events.jetstream.publish.replies import Reply
    from noetl_events.jetstream.publish.reply_inbox import Exchange, ReplyInbox


class Window:
    """
    The messages of one window and the answers so far; `with` begins and ends it.

    A message may be sent several times.  The answer to each attempt counts, however late it comes.

    Args:
        inbox: for the answers.
        messages: that may be sent.
        on_stored: takes each message that is stored, as soon as that is known, and its sequence.

    """

    def __init__(
        self, inbox: ReplyInbox, messages: Sequence[Outgoing], on_stored: Callable[[Sequence[Outgoing], int], None]
    ) -> None:
        self.silence = "no answer"
        """Why answers are missing, when they are."""
        self.denial = ""
        """The server's words, when it denies us a subject of this window."""
        self.is_heard = False
        """Whether the stream itself has answered since the last attempt began."""
        self.has_duplicates = False
        """Whether it had one of the messages before, since this was last set to False."""

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
        """Return the answer to the last attempt at *message*, or to one before that came since."""
        return self._replies.get(message)

    async def send(
        self, client: DirectClient, messages: Sequence[Outgoing], deadline: float, *, silence: float
    ) -> None:
        """Send *messages*, and return when all are answered, or nothing was heard for so many seconds of *silence*."""
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
        # A message of another client may have any place, or none.
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
"""Messages the server takes in one batch."""

_ATOMIC_SILENCE: Final = 2.0
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
        """Whether none of *messages* is larger than *limit* bytes with the headers of a batch."""
        return all(message.size + _EXTRA_BYTES <= limit for message in messages)


def _commands(messages: Sequence[Outgoing], exchange: Exchange) -> Iterator[bytes]:
    lines = b"Nats-Batch-Id: %b\r\nNats-Batch-Sequence: %%d\r\n" % exchange.token.encode()
    for seq, message in enumerate(messages[:-1], 1):
        yield command_with(message, lines % seq, b"")
    commit = lines % len(messages) + b"Nats-Batch-Commit: 1\r\n"
    yield command_with(messages[-1], commit, exchange.reply_to.encode())


BURST: Final = 125
"""Messages sent in one write."""

# The server says so often that it is alive.
_FLOW: Final = 250
# Past either a batch is ended: all of it waits for the end, and is sent again if that does not come.
LONGEST: Final = 4_000
_LONGEST_BYTES: Final = 2 * 1024 * 1024
_START, _APPEND, _COMMIT, _END, _ASK = 0, 1, 2, 3, 4
# Longer than a server halts for, as a rule: then the batch is still known, and its PubAck comes.
_FAST_SILENCE: Final = 2 * SILENCE


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
