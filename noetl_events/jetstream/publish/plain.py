"""
Plain publishes: each message has an answer of its own, and many are in flight at a time.

The reply subject of a message is `<inbox>.<exchange>.<index>`.  A message may be sent several times; the answer to each
attempt counts, however late it arrives.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Self

from noetl_events.jetstream.errors import NatsUnavailable, PermissionDenied
from noetl_events.jetstream.publish.message import command, publish_all
from noetl_events.jetstream.publish.replies import ServerStatus, Verdict, explain, is_no_responders, judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events.jetstream.client import DirectClient
    from noetl_events.jetstream.publish.message import Outgoing
    from noetl_events.jetstream.publish.outcomes import Outcomes
    from noetl_events.jetstream.publish.replies import Reply
    from noetl_events.jetstream.publish.reply_inbox import Exchange, ReplyInbox

_QUIET: Final = 1.0
"""Seconds without an answer after which an attempt ends."""


class PlainPublishes:
    """
    Attempts to publish messages, each with an answer of its own; a context manager.

    Args:
        inbox: inbox for the answers.
        outcomes: outcomes of the messages.
        messages: messages that may be sent.

    """

    def __init__(self, inbox: ReplyInbox, outcomes: Outcomes, messages: Sequence[Outgoing]) -> None:
        self.is_answering = True
        """True unless the stream left the last attempt, made here or as a batch before, without an answer."""
        self.has_duplicates = False
        """True if the stream reported a duplicate since this was last set to False."""

        self._inbox = inbox
        self._outcomes = outcomes
        self._messages = {str(index): message for index, message in enumerate(messages)}
        self._exchange: Exchange | None = None
        self._replies: dict[Outgoing, Reply] = {}
        self._missing: set[Outgoing] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._exchange is not None:
            self._inbox.discard(self._exchange)

    async def send(self, client: DirectClient, messages: Sequence[Outgoing], deadline: float) -> list[Outgoing]:
        """
        Send *messages* once, wait for the answers, and return the messages that have to be sent again.

        Raises:
            NatsUnavailable: the stream accepts no messages now.

        """
        began = time.monotonic()
        failure = await self._wait_for_replies(client, messages, deadline)
        again = [message for message in messages if not self._finish(message, failure)]
        if self.is_answering:
            self._outcomes.silent_since = None
        elif again:
            self._explain_silence(again[0], began)
        if again:
            self._outcomes.mark_uncertain(again)
            self._outcomes.fail_expired(again)
        return again

    def is_answered(self, message: Outgoing) -> bool:
        """Return True if the last attempt of *message*, or an earlier one, was answered since."""
        return message in self._replies

    async def _wait_for_replies(
        self, client: DirectClient, messages: Sequence[Outgoing], deadline: float
    ) -> NatsUnavailable | None:
        """Send *messages*, and return when all are answered, or with the reason why some are not."""
        self.is_answering = False
        self._missing = set(messages)
        for message in messages:
            self._replies.pop(message, None)
        if self._exchange is None or self._exchange.is_closed:
            self.__exit__()
            self._exchange = self._inbox.exchange(self._on_reply)
            self._exchange.subject = self._messages["0"].subject
        try:
            await publish_all(client, messages, self._commands(self._exchange))
            await self._exchange.until(lambda: not self._missing, messages, deadline, silence=_QUIET)
        except NatsUnavailable as exc:
            return exc
        return None

    def _commands(self, exchange: Exchange) -> list[bytes]:
        head = exchange.reply_to.encode()
        return [
            command(message, b"%b.%b" % (head, index.encode()))
            for index, message in self._messages.items()
            if message in self._missing
        ]

    def _on_reply(self, index: str, reply: Reply) -> None:
        message = self._messages.get(index)
        # Another client may publish to the inbox, so the index may be any text.
        if message is None or message.has_outcome:
            return
        self.is_answering = self.is_answering or not isinstance(reply, ServerStatus)
        self._replies[message] = reply
        self._missing.discard(message)
        if judge(reply) is Verdict.STORED:
            self.has_duplicates = self.has_duplicates or reply.duplicate
            self._outcomes.store((message,), reply.seq)

    def _finish(self, message: Outgoing, failure: NatsUnavailable | None) -> bool:
        """Record the outcome of *message*; return False if it has none, and has to be sent again."""
        reply = self._replies.get(message)
        if reply is None and isinstance(failure, PermissionDenied) and _is_about(message, str(failure)):
            message.fail(PermissionDenied, str(failure))
            return True
        match judge(reply):
            case Verdict.STORED:
                # `_on_reply` has recorded this outcome.
                return True
            case Verdict.REFUSED:
                self._outcomes.refuse(message, explain(reply))
                return True
            case Verdict.UNAVAILABLE:
                raise NatsUnavailable(explain(reply))
            case Verdict.AGAIN:
                is_silent = reply is None and not isinstance(failure, PermissionDenied)
                self._outcomes.reason = str(failure) if is_silent else explain(reply)
                return False

    def _explain_silence(self, message: Outgoing, began: float) -> None:
        """Find the reason why the stream has not answered since *began*."""
        expected, outcomes = self._inbox.expected, self._outcomes
        since = outcomes.silent_since = outcomes.silent_since or began
        seconds = time.monotonic() - since
        no_responders = is_no_responders(self._replies.get(message))
        outcomes.reason = expected.explain_silence(message.subject, seconds, is_untaken=no_responders)
        if seconds >= self._inbox.lookup_after:
            expected.record_silence(since)
            self._inbox.look_up(message.subject)


def _is_about(message: Outgoing, denial: str) -> bool:
    words = denial.lower()
    return message.subject.lower() in words or "for subscription" in words
