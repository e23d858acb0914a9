"""How a batch ended: only a PubAck that counts all of its messages means that they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noetl_events.jetstream.replies import BATCHES_DISABLED, ServerStatus, explain

if TYPE_CHECKING:
    from noetl_events.jetstream.replies import Reply


class BatchFailed(Exception):
    """
    Which messages of the batch are stored is unknown.

    Args:
        reason: in a sentence.
        is_heard: whether the stream itself has said so; else it is silent.
        code: of the error it has answered with, 0 if there was none.

    """

    def __init__(self, reason: str, *, is_heard: bool = False, code: int = 0) -> None:
        super().__init__(reason)
        self.is_heard = is_heard
        self.code = code


class BatchesUnsupported(BatchFailed):
    """The stream or its server has no such batches: it stored each message by itself, in order, or none."""


def batch_failure(reply: Reply, expected: int) -> BatchFailed | None:
    """Return what *reply*, the one that ends a batch of *expected* messages, says against it."""
    if reply.error is not None:
        unsupported = reply.error.err_code in BATCHES_DISABLED
        kind = BatchesUnsupported if unsupported else BatchFailed
        return kind(explain(reply), is_heard=not isinstance(reply, ServerStatus), code=reply.error.err_code)
    if not reply.batch:
        return BatchesUnsupported("the server takes each message of a batch by itself", is_heard=True)
    if reply.count != expected:
        return BatchFailed(f"{reply.count} of {expected} messages acknowledged", is_heard=True)
    if not reply.seq:
        return BatchFailed("every id was known before, stored or not", is_heard=True)
    return None
