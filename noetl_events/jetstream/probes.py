"""Probes of a server that change nothing: denied subjects, the stream of a subject, and the server's time."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from nats.errors import Error as NatsError

from noetl_events.jetstream.api import unavailable
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.message import unix_nanoseconds
from noetl_events.jetstream.publish.replies import is_no_responders, read_reply

if TYPE_CHECKING:
    from collections.abc import Iterable

    from noetl_events.jetstream.connection import Connection

_TIMEOUT: Final = 3
# No stream has this name, so none stores the probe.  No API request has this body or lacks a reply subject, so none is
# executed.
_NOWHERE: Final = {"Nats-Expected-Stream": "-"}
_NOTHING: Final = b"?"


async def denied(
    connection: Connection, publish: Iterable[str], subscribe: Iterable[tuple[str, str]]
) -> list[tuple[str, str]]:
    """
    Return the denied subjects, as "publish" or "subscribe" and the subject; each is tried.

    Args:
        connection: connection to NATS; it is not closed here.
        publish: subjects for publishing.
        subscribe: subjects for subscribing, each with its queue group or "".

    Raises:
        NatsUnavailable: the server does not answer.

    """
    publish, subscribe = list(publish), list(subscribe)
    client = await connection.client()
    try:
        subscriptions = [await client.subscribe(subject, queue=queue) for subject, queue in subscribe]
        for subject in publish:
            await client.publish(subject, _NOTHING, headers=_NOWHERE)
        # The server reports a denial before it answers the flush.
        await client.flush(timeout=_TIMEOUT)
        found = [("publish", name) for name in publish if connection.denial(name, "publish")]
        found += [("subscribe", name) for name, _ in subscribe if connection.denial(name, "subscription")]
        for subscription in subscriptions:
            await subscription.unsubscribe()
    except (NatsError, OSError) as exc:
        raise NatsUnavailable(f"cannot check the permissions: {str(exc) or type(exc).__name__}") from exc
    return found


async def stream_of(connection: Connection, subject: str) -> str:
    """
    Return the name of the stream that takes *subject*, or "" if none does; nothing is stored.

    Any subscriber of the subject may answer too, and sooner; its answer is ignored.

    Raises:
        NatsUnavailable: the server did not answer, or answered with an error.

    """
    client = await connection.client()
    inbox, has_foreign = client.new_inbox(), False
    try:
        answers = await client.subscribe(inbox)
        try:
            await client.publish(subject, _NOTHING, reply=inbox, headers=_NOWHERE)
            async with asyncio.timeout(_TIMEOUT):
                while True:
                    reply = read_reply(await answers.next_msg(timeout=_TIMEOUT))
                    if is_no_responders(reply):
                        return ""
                    # A stream refuses a message for another stream, so an answer without an error is from no stream.
                    if reply.stream and reply.error is not None:
                        return reply.stream
                    has_foreign = True
        finally:
            await answers.unsubscribe()
    except (NatsError, OSError) as exc:
        if has_foreign and isinstance(exc, TimeoutError):
            return ""
        raise unavailable(connection, subject, exc) from exc


async def server_time(connection: Connection, stream: str) -> float:
    """
    Return the time of the server's clock, in Unix seconds.

    Raises:
        NatsUnavailable: the server did not answer, or answered with an error.

    """
    subject = connection.api(f"STREAM.INFO.{stream}")
    client = await connection.client()
    try:
        reply = await client.request(subject, b"", timeout=_TIMEOUT)
    except (NatsError, OSError) as exc:
        raise unavailable(connection, subject, exc) from exc
    if not (reported := _decoded(reply.data).get("ts")):
        raise NatsUnavailable("the server's answer has no time")
    return unix_nanoseconds(reported) / 1e9


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {}
