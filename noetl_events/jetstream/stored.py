"""What a stream holds, message by message: read it through, look one up, take one out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from nats.errors import Error as NatsError

from noetl_events.jetstream.delivery import delivery_of
from noetl_events.jetstream.errors import NatsUnavailable, StreamMissing, StreamReplaced
from noetl_events.jetstream.history import History, Span
from noetl_events.jetstream.instants import unix_nanoseconds
from noetl_events.jetstream.replies import ReplyError
from noetl_events.jetstream.streams import missing
from noetl_events.jetstream.topology import unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from datetime import datetime

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.delivery import Message

_PATIENCE: Final = 5.0
# What is removed while it is read may be among these.
_AHEAD: Final = 200
_STREAM_NOT_FOUND: Final = 10059
_MESSAGE_NOT_FOUND: Final = 10037


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """
    A message as a stream holds it.

    Args:
        stream: that holds it.
        sequence: its place there.
        stored_ns: Unix nanoseconds, by the server's clock.
        subject: it was published to.
        headers: of the message; the last of a name counts.
        data: of the message; empty when only headers were read.
        size: of *data* in the stream, in bytes.

    """

    stream: str
    sequence: int
    stored_ns: int
    subject: str
    headers: dict[str, str]
    data: bytes
    size: int


class _Raw(msgspec.Struct, frozen=True):
    seq: int
    subject: str
    time: str
    data: bytes = b""
    hdrs: bytes = b""


class _Answer(msgspec.Struct, frozen=True):
    message: _Raw | None = None
    error: ReplyError | None = None
    success: bool = False


_answer = msgspec.json.Decoder(_Answer)


async def read_stored(
    connection: Connection, stream: str, *, since: datetime | None = None, headers_only: bool = False
) -> AsyncGenerator[Stored, None]:
    """
    Yield what *stream* holds now, in order; what is stored while it is read comes with the next reading.

    Close it (`contextlib.aclosing`) when leaving early: it has a consumer, which otherwise is kept for minutes.

    Raises:
        StreamMissing: there is no such stream.
        Refused: the server will not let it be read like this.
        NatsUnavailable: the server did not answer, or said no; or meanwhile the stream became another one.

    """
    span = Span(stream=stream, start=since, headers_only=headers_only)
    try:
        async with History(connection, span, patience=_PATIENCE, max_messages=_AHEAD) as history:
            while messages := await history.read():
                for message in messages:
                    yield stored_of(message)
    except StreamReplaced as exc:
        raise NatsUnavailable(str(exc)) from exc


async def find_stored(connection: Connection, stream: str, sequence: int, *, subject: str = "") -> Stored | None:
    """
    Return the message at *sequence*, or with a *subject* the first one from there on that matches; None if none does.

    It asks the stream's leader: a replica that answers direct gets may be behind, and say none where there is one.

    Raises:
        StreamMissing: there is no such stream.
        NatsUnavailable: the server did not answer, or said no.

    """
    wanted: dict[str, int | str] = {"seq": sequence} | ({"next_by_subj": subject} if subject else {})
    answer = await _ask(connection, "GET", stream, msgspec.json.encode(wanted))
    if answer.message is not None:
        return _of_raw(stream, answer.message)
    if answer.error is not None and answer.error.err_code == _MESSAGE_NOT_FOUND:
        return None
    raise NatsUnavailable(f"message {sequence} of {stream} cannot be read: {_words(answer)}")


async def remove_stored(connection: Connection, stream: str, sequence: int) -> bool:
    """
    Remove the message at *sequence* and return whether it was there.

    Its bytes stay in the server's file until that is compacted: writing over them takes the server 15 times as long.

    Raises:
        StreamMissing: there is no such stream.
        NatsUnavailable: it may be there or not; removing it again is safe.

    """
    answer = await _ask(connection, "DELETE", stream, b'{"seq":%d,"no_erase":true}' % sequence)
    if answer.success:
        return True
    # One error code stands for a message that is gone and for one that may not be removed.
    if await find_stored(connection, stream, sequence) is None:
        return False
    raise NatsUnavailable(f"message {sequence} of {stream} cannot be removed: {_words(answer)}")


async def _ask(connection: Connection, verb: str, stream: str, request: bytes) -> _Answer:
    # Not nats-py's get_msg: it reads headers as e-mail, and turns what is not ASCII in them into other objects.
    subject = connection.api(f"STREAM.MSG.{verb}.{stream}")
    client = await connection.client()
    try:
        reply = await client.request(subject, request, timeout=5)
        answer = _answer.decode(reply.data)
    except (NatsError, OSError) as exc:
        raise unavailable(connection, subject, exc) from exc
    except ValueError as exc:
        raise NatsUnavailable(f"{subject}: unreadable answer: {exc}") from exc
    if answer.error is not None and answer.error.err_code == _STREAM_NOT_FOUND:
        raise StreamMissing(missing(stream))
    return answer


def _words(answer: _Answer) -> str:
    return answer.error.description if answer.error is not None else "no reason given"


def stored_of(message: Message) -> Stored:
    """Return a delivered *message* as its stream holds it."""
    delivery, headers = delivery_of(message), dict(message.headers or {})
    return Stored(
        stream=delivery.stream,
        sequence=delivery.sequence,
        stored_ns=delivery.stored_ns,
        subject=message.subject,
        # The server adds the size where it leaves the data out.
        size=int(headers.pop("Nats-Msg-Size", len(message.data))),
        headers=headers,
        data=message.data,
    )


def _of_raw(stream: str, raw: _Raw) -> Stored:
    return Stored(
        stream=stream,
        sequence=raw.seq,
        stored_ns=unix_nanoseconds(raw.time),
        subject=raw.subject,
        headers=_headers(raw.hdrs),
        data=raw.data,
        size=len(raw.data),
    )


def _headers(block: bytes) -> dict[str, str]:
    lines = block.decode(errors="replace").split("\r\n")[1:]
    return {name.strip(): value.strip() for name, colon, value in (line.partition(":") for line in lines) if colon}
