"""Store a single message, or look one up, for callers that have no stream of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError

from noetl_events.jetstream.declarations import EVENTS_STREAM
from noetl_events.jetstream.errors import MessageTooLarge, NatsUnavailable, PermissionDenied, StreamMissing
from noetl_events.jetstream.expected_stream import ExpectedStream
from noetl_events.jetstream.inbox import SILENCE, ReplyInbox
from noetl_events.jetstream.replies import Verdict, explain, is_no_responders, judge
from noetl_events.jetstream.streams import untaken
from noetl_events.jetstream.topology import jetstream, unavailable

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.replies import Reply


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
    Return the stream sequence of the message, once it is stored; give it a `Nats-Msg-Id` and trying again is safe.

    Args:
        connection: to NATS; it stays open.
        subject: to publish to.
        payload: of the message.
        headers: of the message.
        stream: name of the stream that has to store it; empty for any that takes *subject*.
        usual: name of the one that takes it as a rule, where *stream* is empty.

    Raises:
        StreamMissing: no stream takes *subject*.
        MessageTooLarge: it exceeds what the server takes.
        NatsUnavailable: whether it is stored is unknown.

    """
    inbox = ReplyInbox(connection, ExpectedStream(connection, stream, usual=usual))
    answers: list[Reply] = []
    try:
        client = await inbox.open()
        _require_room(client.max_payload, payload, headers)
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
        NatsUnavailable: the server did not answer, or said no.

    """
    js = await jetstream(connection)
    try:
        return (await js.get_last_msg(stream, subject, direct=True)).data or b""
    except NotFoundError:
        return None
    except (NatsError, APIError) as exc:
        raise unavailable(connection, connection.api(f"DIRECT.GET.{stream}.{subject}"), exc) from exc


def _require_room(room: int, payload: bytes, headers: dict[str, str]) -> None:
    # The server closes the connection over a message that is too large, and nats-py looks at the payload alone.
    size = (
        len(payload) + len("NATS/1.0\r\n\r\n") + sum(len(f"{name}: {headers[name]}\r\n".encode()) for name in headers)
    )
    if size > room:
        raise MessageTooLarge(
            f"{size:,} bytes with headers exceed the server's max_payload of {room:,}; raise it there"
        )
