"""The unknown outcomes of a simulated publisher, and whether such a message was sent in a fast-ingest batch again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from noetl_events.jetstream.publish.message import Outgoing
    from noetl_events.jetstream.publish.queue import PublishQueue
    from tests.simulation.network import Command


class UncertainIds:
    """
    The ids with an unknown outcome.

    Args:
        queue: queue of the publisher, observed from now on.

    """

    def __init__(self, queue: PublishQueue) -> None:
        self.batched_again: set[str] = set()
        """The ids among them that were part of a fast-ingest batch afterwards."""

        self._ids: set[str] = set()
        self._mark_uncertain = queue.mark_uncertain
        queue.mark_uncertain = self._record  # type: ignore[method-assign]

    def check(self, command: Command) -> None:
        """Check a message that the publisher sends."""
        if command.reply.endswith(".$FI") and (message_id := command.headers.get("Nats-Msg-Id", "")) in self._ids:
            self.batched_again.add(message_id)

    def _record(self, messages: Iterable[Outgoing]) -> None:
        uncertain = list(messages)
        self._ids |= {message.message_id.decode() for message in uncertain}
        self._mark_uncertain(uncertain)
