"""What was received and not yet taken."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from noetl_events.jetstream.delivery import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

M = TypeVar("M", bound=Message)


class PullBuffer(Generic[M]):
    """Messages in the order of their delivery, and how many bytes they are."""

    def __init__(self) -> None:
        self.messages: deque[M] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.messages)

    def put(self, message: M) -> None:
        """Add *message*."""
        self.messages.append(message)
        self.bytes += _size(message)

    def take(self, limit: int) -> list[M]:
        """Return the first *limit* messages, or all there are."""
        taken = [self.messages.popleft() for _ in range(min(limit, len(self.messages)))]
        self.bytes -= sum(map(_size, taken))
        return taken

    def put_back(self, messages: Sequence[M]) -> None:
        """Have *messages*, which were taken last, before all others again."""
        self.messages.extendleft(reversed(messages))
        self.bytes += sum(map(_size, messages))

    def clear(self) -> None:
        """Drop everything; unacknowledged, it is delivered again."""
        self.messages.clear()
        self.bytes = 0


def _size(message: Message) -> int:
    return len(message.data) + len(message.reply) + len(message.subject)
