"""Plain publishes, many under way at a time, each with an answer of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from noetl_events.jetstream.commands import command, publish_all
from noetl_events.jetstream.errors import NatsUnavailable, PermissionDenied
from noetl_events.jetstream.replies import ServerStatus, Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from noetl_events.jetstream.direct_client import DirectClient
    from noetl_events.jetstream.inbox import Exchange, ReplyInbox
    from noetl_events.jetstream.outgoing import Outgoing
    from noetl_events.jetstream.replies import Reply


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
