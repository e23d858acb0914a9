"""How a batch ended: only a PubAck that counts all of its messages means that they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noetl_events.jetstream.replies import BATCHES_DISABLED, explain

if TYPE_CHECKING:
    from noetl_events.jetstream.replies import Reply


class BatchFailed(Exception):
    """Which messages of the batch are stored is unknown."""


class BatchesUnsupported(BatchFailed):
    """The stream or its server has no such batches: it stored each message by itself, in order, or none."""


class BatchOutcome:
    """
    What the answers to one batch say.

    Args:
        expected: messages in it.

    """

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self.failure: BatchFailed | None = None
        """Set when not all of it is known to be stored."""

    def take(self, _control: str, reply: Reply) -> bool:
        """Read one frame; return whether it was the last that matters."""
        if reply.type == "ack":
            return False
        if reply.error is not None:
            unsupported = reply.error.err_code in BATCHES_DISABLED
            self.failure = (BatchesUnsupported if unsupported else BatchFailed)(explain(reply))
        elif reply.type:
            self.failure = BatchFailed(f"the server reports: {reply.type}")
        elif not reply.batch:
            self.failure = BatchesUnsupported("the server takes each message of a batch by itself")
        elif reply.count != self._expected:
            self.failure = BatchFailed(f"{reply.count} of {self._expected} messages acknowledged")
        return True
