"""Whether a consumer is read now, and why not: interrupted, edited by hand, or its requests refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from noetl_events.jetstream.errors import NatsUnavailable, Refused
from noetl_events.jetstream.pull_requests import NO_ROOM, is_a_refusal

if TYPE_CHECKING:
    from noetl_events.jetstream.declarations import ConsumerDeclaration

STARTING: Final = "starting"
PINNED: Final = "pinned"

log = structlog.get_logger()


class PullState:
    """
    The state of one puller.

    Args:
        consumer: that it reads.

    """

    def __init__(self, consumer: ConsumerDeclaration) -> None:
        self.broken = STARTING
        """Why the consumer has to be begun with anew; empty while it is read."""

        self.edited = ""
        """Why the consumer has to be looked at; empty while it is as it was."""

        self.refusal = ""
        """The server's words for the requests it refuses; empty once it has accepted one."""

        self._consumer = consumer
        self._failure: NatsUnavailable | None = None
        self._is_accepted = False
        self._logged = ""

    @property
    def reason(self) -> str:
        """Why the consumer is not read now; empty while it is, and while the puller starts."""
        return self.refusal or self.edited or (self.broken if self.broken != STARTING else "")

    @property
    def is_reading(self) -> bool:
        """Whether the consumer was there at the last look, and nothing has come between since."""
        return not self.broken and not self.reason

    def begin(self) -> None:
        """Note that the consumer is begun with; whether its requests are accepted is not known yet."""
        self.broken, self._is_accepted = "", False

    def accept(self) -> None:
        """Note that the server has accepted a request."""
        if not self._is_accepted:
            self._is_accepted = True
            self.refusal = self._logged = ""

    def refuse(self, status: str, text: str) -> bool:
        """Note that the server has refused a request; return whether others that are under way may be served."""
        words, is_refusal = f"{status} {text}".strip(), is_a_refusal(status, text)
        # Of several requests under way each is refused: the consumer is looked at for the first.
        is_known = is_refusal and bool(self.edited)
        if NO_ROOM in text or not (self._is_accepted or is_known):
            # Not the first time: to ask again at once would be to ask for ever.
            self.refusal = words
            said = f"consumer {self._consumer.name} of stream {self._consumer.stream} refuses requests: {words}"
            self._failure = Refused(said) if is_refusal else NatsUnavailable(said)
        if is_refusal:
            self.edited, self._is_accepted = words, False
        return is_refusal

    def raise_failure(self) -> None:
        """
        Return unless a request was refused since the last call.

        Raises:
            Refused: the next one will be refused as well.
            NatsUnavailable: the next one may be served.

        """
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def log_begin(self) -> None:
        """Log why the consumer is begun with anew: once, however often it is tried."""
        if self.broken == PINNED:
            log.info("puller.pinned", consumer=self._consumer.name)
        elif self.broken not in {STARTING, self._logged}:
            self._logged = self.broken
            log.warning("puller.restarting", consumer=self._consumer.name, reason=self.broken)

    def log_edit(self) -> None:
        """Log why the consumer is looked at, likewise."""
        if self.edited != self._logged:
            self._logged = self.edited
            log.warning("consumer.edited", consumer=self._consumer.name, reason=self.edited)
