"""Follow a stream without a durable consumer: an ordered read that leaves nothing behind on the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NotFoundError

from noetl_events.jetstream.errors import StreamMissing
from noetl_events.jetstream.history import History, Span
from noetl_events.jetstream.streams import missing
from noetl_events.jetstream.topology import jetstream, unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.delivery import Message


async def follow(
    connection: Connection, stream: str, *, subject: str = ">", from_start: bool = False, until_end: bool = False
) -> AsyncIterator[Message]:
    """
    Yield the messages of *stream* in order: new ones, or all of them with *from_start*, and end with *until_end*.

    Raises:
        StreamMissing: there is no such stream.
        NatsUnavailable: the server said no.

    """
    if until_end:
        # Of new messages there is none before the end.
        span = Span(stream=stream, subject=subject, end=None if from_start else 0)
        async with History(connection, span) as history:
            while messages := await history.read():
                for message in messages:
                    yield message
        return
    js = await jetstream(connection)
    policy = DeliverPolicy.ALL if from_start else DeliverPolicy.NEW
    try:
        subscription = await js.subscribe(
            subject, stream=stream, ordered_consumer=True, config=ConsumerConfig(deliver_policy=policy)
        )
    except NotFoundError as exc:
        raise StreamMissing(missing(stream)) from exc
    except (NatsError, APIError) as exc:
        raise unavailable(connection, connection.api(f"CONSUMER.CREATE.{stream}"), exc) from exc
    while True:
        try:
            yield await subscription.next_msg(timeout=1.0)
        except NatsTimeoutError:
            continue
