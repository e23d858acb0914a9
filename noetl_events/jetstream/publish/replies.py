"""
Answers of JetStream to published messages: stored, send again, or refused.

The messages of a batch are stored only if a PubAck counts all of them.
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
"""The queue of the stream is full: the server dropped this message, and asks for a lower rate."""
ATOMIC_NOT_STORED: Final = (OVERLOADED, 10175, 10176, 10210, 10211)
"""No message of the atomic batch is stored: its end or an earlier message was dropped, or too many are in flight."""
BATCHES_DISABLED: Final = (10205, 10174)
_TOO_LARGE: Final = (10054, 10097)
# Cluster, stream or leader are unavailable for the moment: an election ends by itself.
_TRANSIENT: Final = (IN_PROCESS, OVERLOADED, 10008, 10009, 10074, 10118, 10208, 10210, 10211)
# The server reports these limits without their names.
_LIMITS: Final = {
    10002: "max_file or max_mem of the account",
    10023: "max_file or max_mem of the server",
    10047: "max_file or max_mem of the server",
}


class ReplyError(msgspec.Struct, frozen=True):
    """An error answered by the server."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class Reply(msgspec.Struct, frozen=True):
    """
    An answer: a PubAck, a frame of a fast-ingest batch (which has a *type*), or an error.

    Args:
        type: "ack", "gap" or "err" of a frame; empty for a PubAck.
        stream: name of the stream that answers; errors contain it too.
        domain: domain of its JetStream; absent from errors.
        seq: stream sequence of the message; 0 if the message is not known to be stored.
        duplicate: True if the id was stored before, as *seq*.
        batch: id of the batch that a PubAck ends.
        count: number of messages in that batch.
        error: error, in place of the other fields.

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
    """A status header of the server itself, mainly "no responders": no subscriber or stream receives the subject."""


class Verdict(Enum):
    """Outcome of a message after an answer."""

    STORED = "stored"
    REFUSED = "refused"
    AGAIN = "again"
    UNAVAILABLE = "unavailable"


_decoder = msgspec.json.Decoder(Reply)


def read_reply(message: Message) -> Reply:
    """Return the answer in *message*; an unreadable one becomes an error without a code."""
    status, _ = status_of(message)
    if status:
        return ServerStatus(error=ReplyError(code=int(status), description=f"status {status}"))
    try:
        return _decoder.decode(message.data)
    except ValueError as exc:
        return Reply(error=ReplyError(description=f"unreadable answer: {exc}"))


def judge(reply: Reply | None) -> Verdict:
    """Return the meaning of *reply* to a plain publish; None means that no answer came."""
    if reply is None:
        return Verdict.AGAIN
    if reply.error is None:
        # Sequence 0 marks a duplicate of an id in flight: that message is not stored yet, and may be lost.
        return Verdict.STORED if reply.seq > 0 else Verdict.AGAIN
    if reply.error.err_code in _TOO_LARGE:
        return Verdict.REFUSED
    if is_no_responders(reply) or reply.error.err_code in _TRANSIENT or not reply.error.err_code:
        return Verdict.AGAIN
    return Verdict.UNAVAILABLE


def is_no_responders(reply: Reply | None) -> bool:
    """Return True for "no responders": no stream has the subject, or its leader is being elected."""
    return isinstance(reply, ServerStatus) and reply.error is not None and reply.error.code == NO_RESPONDERS


def explain(reply: Reply | None) -> str:
    """Return *reply* as text for the reason of a failure."""
    if reply is None:
        return "no answer"
    if reply.error is None:
        return "the server is still processing this id"
    if reply.error.err_code == IN_PROCESS:
        return f"the leader has the message and waits for its followers: {reply.error.description} ({IN_PROCESS})"
    if reply.error.err_code:
        limit = f": {_LIMITS[reply.error.err_code]}" if reply.error.err_code in _LIMITS else ""
        return f"{reply.error.description} ({reply.error.err_code}){limit}"
    return reply.error.description


class BatchFailed(Exception):
    """
    The outcome of a batch is unknown.

    Args:
        reason: reason, as a sentence.
        is_answered: True if the stream itself answered so; False if it did not answer.
        code: error code of the answer, 0 without one.

    """

    def __init__(self, reason: str, *, is_answered: bool = False, code: int = 0) -> None:
        super().__init__(reason)
        self.is_answered = is_answered
        self.code = code


class BatchesUnsupported(BatchFailed):
    """The stream or its server does not support such batches: it stored each message by itself, in order, or none."""


def sequence_of_batch(reply: Reply, expected: int) -> int:
    """
    Return the stream sequence of the last message of a batch that ended with *reply*.

    Raises:
        BatchesUnsupported: the stream or its server supports no such batches.
        BatchFailed: *reply* is no PubAck for the *expected* number of messages.

    """
    if reply.error is not None:
        unsupported = reply.error.err_code in BATCHES_DISABLED
        kind = BatchesUnsupported if unsupported else BatchFailed
        raise kind(explain(reply), is_answered=not isinstance(reply, ServerStatus), code=reply.error.err_code)
    if not reply.batch:
        raise BatchesUnsupported("the server stores each message of a batch by itself", is_answered=True)
    if reply.count != expected:
        raise BatchFailed(f"{reply.count} of {expected} messages acknowledged", is_answered=True)
    if not reply.seq:
        raise BatchFailed("the server knew every id before, stored or not", is_answered=True)
    return reply.seq
