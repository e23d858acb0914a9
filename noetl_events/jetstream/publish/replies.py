"""
Answers of JetStream to published messages: stored, to be sent again, or refused.

Only a PubAck that counts all messages of a batch means that they are stored.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

import msgspec

from noetl_events.jetstream.message import status_of

if TYPE_CHECKING:
    from noetl_events.jetstream.message import Message

NO_RESPONDERS: Final = 503
IN_PROCESS: Final = 10158
OVERLOADED: Final = 10167
"""The stream has more messages in its queue than it takes: it dropped this one, and asks for fewer at a time."""
ATOMIC_UNTAKEN: Final = (OVERLOADED, 10175, 10176, 10210, 10211)
"""Of an atomic batch nothing is stored: its end was dropped, or a message before that, or too many are under way."""
BATCHES_DISABLED: Final = (10205, 10174)
_TOO_LARGE: Final = (10054, 10097)
# Cluster not available, stream or leader away for the moment: an election ends by itself.
_TRANSIENT: Final = (IN_PROCESS, OVERLOADED, 10008, 10009, 10074, 10118, 10208, 10210, 10211)
# Limits that the server does not name where it speaks of them.
_LIMITS: Final = {
    10002: "max_file or max_mem of the account",
    10023: "max_file or max_mem of the server",
    10047: "max_file or max_mem of the server",
}


class ReplyError(msgspec.Struct, frozen=True):
    """An error as the server words it."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class Reply(msgspec.Struct, frozen=True):
    """
    One answer: a PubAck, a frame of a fast-ingest batch (which has a *type*), or an error.

    Args:
        type: "ack", "gap" or "err" on a frame; empty on a PubAck.
        stream: that answers; errors name it too.
        domain: of its JetStream; errors leave it out.
        seq: of the message in the stream; 0 when it is not known to be there.
        duplicate: the id was stored before, as *seq*.
        batch: the batch a PubAck ends.
        count: of its messages.
        error: instead of all that.

    """

    type: str = ""
    stream: str = ""
    domain: str = ""
    seq: int = 0
    duplicate: bool = False
    batch: str = ""
    count: int = 0
    error: ReplyError | None = None


class ServerStatus(Reply, frozen=True):
    """What the server itself says, in a header: above all that nobody takes the subject."""


class Verdict(Enum):
    """What becomes of a message after an answer."""

    STORED = "stored"
    REFUSED = "refused"
    AGAIN = "again"
    UNAVAILABLE = "unavailable"


_decoder = msgspec.json.Decoder(Reply)


def read_reply(message: Message) -> Reply:
    """Return the answer in *message*; what cannot be read is an error without a code."""
    status, _ = status_of(message)
    if status:
        return ServerStatus(error=ReplyError(code=int(status), description=f"status {status}"))
    try:
        return _decoder.decode(message.data)
    except ValueError as exc:
        return Reply(error=ReplyError(description=f"unreadable answer: {exc}"))


def judge(reply: Reply | None) -> Verdict:
    """Return what *reply* to a plain publish means; None is silence."""
    if reply is None:
        return Verdict.AGAIN
    if reply.error is None:
        # A duplicate at sequence 0 is an id under way that is not stored yet, and may never be.
        return Verdict.STORED if reply.seq > 0 else Verdict.AGAIN
    if reply.error.err_code in _TOO_LARGE:
        return Verdict.REFUSED
    if is_no_responders(reply) or reply.error.err_code in _TRANSIENT or not reply.error.err_code:
        return Verdict.AGAIN
    return Verdict.UNAVAILABLE


def is_no_responders(reply: Reply | None) -> bool:
    """Whether nobody takes the subject: no stream has it, or its leader is being elected."""
    return isinstance(reply, ServerStatus) and reply.error is not None and reply.error.code == NO_RESPONDERS


def explain(reply: Reply | None) -> str:
    """Return *reply* in words, for the reason of a failure."""
    if reply is None:
        return "no answer"
    if reply.error is None:
        return "the id is in process"
    if reply.error.err_code == IN_PROCESS:
        return f"the leader has it and waits for its followers: {reply.error.description} ({IN_PROCESS})"
    if reply.error.err_code:
        limit = f": {_LIMITS[reply.error.err_code]}" if reply.error.err_code in _LIMITS else ""
        return f"{reply.error.description} ({reply.error.err_code}){limit}"
    return reply.error.description


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
