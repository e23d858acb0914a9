"""Plain publishes, many under way at a time, each with an answer of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noetl_events.jetstream.commands import command, publish_all
from noetl_events.jetstream.errors import NatsUnavailable, PermissionDenied
from noetl_events.jetstream.replies import Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from noetl_events.jetstream.direct_client import DirectClient
    from noetl_events.jetstream.inbox import ReplyInbox
    from noetl_events.jetstream.outgoing import Outgoing
    from noetl_events.jetstream.replies import Reply


class Window:
    """
    The messages of one window and the answers so far.

    Args:
        messages: to send, in order.
        on_stored: takes each message that is stored, as soon as that is known, and its sequence.

    """

    def __init__(self, messages: Sequence[Outgoing], on_stored: Callable[[Sequence[Outgoing], int], None]) -> None:
        self.messages = messages
        self.silence = "no answer"
        """Why answers are missing, when they are."""
        self.denial = ""
        """The server's words, when it denies us a subject of this window."""

        self._on_stored = on_stored
        self._places = {str(index): index for index in range(len(messages))}
        self._replies: list[Reply | None] = [None] * len(messages)
        self._missing = len(messages)

    @property
    def answered(self) -> list[tuple[Outgoing, Reply | None]]:
        """Each message with its answer; None where there was none."""
        return list(zip(self.messages, self._replies, strict=True))

    async def send(self, inbox: ReplyInbox, client: DirectClient, deadline: float) -> None:
        """Send all and return when all are answered, or no more answers are to be expected."""
        with inbox.exchange(self._take) as exchange:
            exchange.subject = self.messages[0].subject
            try:
                replies = [b"%b.%d" % (exchange.reply_to.encode(), index) for index in range(len(self.messages))]
                await publish_all(client, self.messages, map(command, self.messages, replies))
                await exchange.until(self._is_answered, self.messages, deadline)
            except PermissionDenied as exc:
                self.denial = str(exc)
            except NatsUnavailable as exc:
                self.silence = str(exc)

    def _take(self, place: str, reply: Reply) -> None:
        index = self._places.get(place)
        # Only the first answer counts; and a message of another client may have any place, or none.
        if index is not None and self._replies[index] is None:
            self._replies[index] = reply
            self._missing -= 1
            if judge(reply) is Verdict.STORED:
                self._on_stored((self.messages[index],), reply.seq)

    def _is_answered(self) -> bool:
        return not self._missing
