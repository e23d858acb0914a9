"""Single messages of a stream: publish, get or delete one, or read the whole stream."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError

from noetl_events.jetstream.api import jetstream, unavailable
from noetl_events.jetstream.consume.history import Span, read_span
from noetl_events.jetstream.declarations import EVENTS_STREAM
from noetl_events.jetstream.errors import (
    MessageTooLarge,
    NatsUnavailable,
    PermissionDenied,
    StreamMissing,
    StreamReplaced,
)
from noetl_events.jetstream.message import delivery_of, unix_nanoseconds
from noetl_events.jetstream.publish.expected_stream import ExpectedStream
from noetl_events.jetstream.publish.replies import ReplyError, Verdict, explain, is_no_responders, judge
from noetl_events.jetstream.publish.reply_inbox import SILENCE, ReplyInbox
from noetl_events.jetstream.streams import missing, untaken

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from datetime import datetime

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.message import Message
    from noetl_events.jetstream.publish.replies import Reply


async def store(
    connection: Connection,
    subject: str,
    payload: bytes,
    headers: dict[str, str],
    *,
    stream: str = "",
    usual: str = EVENTS_STREAM,
) -> int:
    """
    Publish a message, and return its stream sequence once it is stored; with a `Nats-Msg-Id` a retry is safe.

    Args:
        connection: connection to NATS; it is not closed here.
        subject: subject to publish to.
        payload: payload of the message.
        headers: headers of the message.
        stream: name of the stream that has to store it; empty for any that takes *subject*.
        usual: name of the stream that usually takes it, if *stream* is empty.

    Raises:
        StreamMissing: no stream takes *subject*.
        MessageTooLarge: the message exceeds the server's max_payload.
        NatsUnavailable: the outcome is unknown.

    """
    inbox = ReplyInbox(connection, ExpectedStream(connection, stream, usual=usual))
    answers: list[Reply] = []
    try:
        client = await inbox.open()
        size = _size(payload, headers)
        _require_room(await connection.room_for(size), size)
        with inbox.exchange(lambda _, reply: answers.append(reply)) as exchange:
            exchange.subject = subject
            await client.publish(subject, payload, reply=exchange.reply_to, headers=headers)
            await exchange.until(lambda: bool(answers), [_Addressed(subject)], time.monotonic() + SILENCE)
    except (PermissionDenied, MessageTooLarge):
        raise
    except (NatsUnavailable, NatsError, OSError) as exc:
        raise NatsUnavailable(f"{subject}: {str(exc) or type(exc).__name__}") from exc
    finally:
        await inbox.aclose()
    return _sequence(subject, answers[0])


class _Addressed(NamedTuple):
    subject: str


def _sequence(subject: str, reply: Reply) -> int:
    if is_no_responders(reply):
        raise StreamMissing(untaken(subject))
    if judge(reply) is not Verdict.STORED:
        raise NatsUnavailable(f"{subject}: {explain(reply)}")
    return reply.seq


async def last_payload(connection: Connection, stream: str, subject: str) -> bytes | None:
    """
    Return the payload of the last message of *subject* in *stream*, or None if there is none.

    Raises:
        NatsUnavailable: the server did not answer, or answered with an error.

    """
    js = await jetstream(connection)
    try:
        return (await js.get_last_msg(stream, subject, direct=True)).data or b""
    except NotFoundError:
        return None
    except (NatsError, APIError) as exc:
        raise unavailable(connection, connection.api(f"DIRECT.GET.{stream}.{subject}"), exc) from exc


def _require_room(room: int, size: int) -> None:
    if size > room:
        raise MessageTooLarge(
            f"{size:,} bytes with headers exceed the server's max_payload of {room:,}; raise it there"
        )


def _size(payload: bytes, headers: dict[str, str]) -> int:
    # The server closes the connection over a message that is too large, and nats-py checks only the payload.
    lines = sum(len(f"{name}: {headers[name]}\r\n".encode()) for name in headers)
    return len("NATS/1.0\r\n\r\n") + lines + len(payload)


_PATIENCE: Final = 5.0
# Messages removed during the reading may be among the prefetched ones, so few are prefetched.
_AHEAD: Final = 200
_STREAM_NOT_FOUND: Final = 10059
_MESSAGE_NOT_FOUND: Final = 10037


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """
    A stored message.

    Args:
        stream: name of the stream.
        sequence: stream sequence.
        stored_ns: time of storing in Unix nanoseconds, by the server's clock.
        subject: subject it was published to.
        headers: headers; the last of a name counts.
        data: payload; empty if only headers were read.
        size: size of the payload in the stream, in bytes.

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
    Yield the messages that *stream* holds now, in order; later ones are left for the next reading.

    Close the generator (`contextlib.aclosing`) when stopping early, or its consumer stays on the server for minutes.

    Raises:
        StreamMissing: the stream does not exist.
        Refused: the server refuses such a consumer.
        NatsUnavailable: the server did not answer, or answered with an error; or the stream was replaced meanwhile.

    """
    span = Span(stream=stream, start=since, headers_only=headers_only)
    try:
        async with aclosing(read_span(connection, span, patience=_PATIENCE, max_messages=_AHEAD)) as messages:
            async for message in messages:
                yield stored_of(message)
    except StreamReplaced as exc:
        raise NatsUnavailable(str(exc)) from exc


async def find_stored(connection: Connection, stream: str, sequence: int, *, subject: str = "") -> Stored | None:
    """
    Return the message at *sequence*, or with a *subject* the first matching one from there on; None without one.

    The request goes to the stream's leader, because a replica that answers direct gets may lack the message.

    Raises:
        StreamMissing: the stream does not exist.
        NatsUnavailable: the server did not answer, or answered with an error.

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
    Delete the message at *sequence*, and return True if it existed.

    Its bytes stay in the server's file until a compaction: overwriting them takes the server 15 times as long.

    Raises:
        StreamMissing: the stream does not exist.
        NatsUnavailable: the outcome is unknown; deleting again is safe.

    """
    answer = await _ask(connection, "DELETE", stream, b'{"seq":%d,"no_erase":true}' % sequence)
    if answer.success:
        return True
    # The same error code stands for a deleted message and for a denied deletion.
    if await find_stored(connection, stream, sequence) is None:
        return False
    raise NatsUnavailable(f"message {sequence} of {stream} cannot be removed: {_words(answer)}")


async def _ask(connection: Connection, verb: str, stream: str, request: bytes) -> _Answer:
    # nats-py's get_msg parses headers as e-mail, and turns non-ASCII values into other objects, so it is not used.
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
    """Return a delivered *message* as a stored one."""
    delivery, headers = delivery_of(message), dict(message.headers or {})
    return Stored(
        stream=delivery.stream,
        sequence=delivery.sequence,
        stored_ns=delivery.stored_ns,
        subject=message.subject,
        # The server adds the size if it omits the data.
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
