"""Streams as declared: created when missing, refused when different, never silently changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nats.errors import Error as NatsError
from nats.js.api import StreamInfo
from nats.js.errors import APIError, NotFoundError

from noetl_events.jetstream.api import jetstream, unavailable
from noetl_events.jetstream.declarations import (
    DAY,
    DEAD_LETTERS,
    DEAD_STREAM,
    DEAD_SUBJECTS,
    DUPLICATE_WINDOW,
    EVENTS_STREAM,
    EVENTS_SUBJECTS,
    TRIALS,
    TRIALS_STREAM,
    TRIALS_SUBJECTS,
    ConsumerDeclaration,
    StreamDeclaration,
)
from noetl_events.jetstream.errors import StreamMissing
from noetl_events.jetstream.streams import ensure_stream, examine_stream, require_stream, show_stream, untaken
from noetl_events.spool.watermark import Watermark

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection

__all__ = [
    "DAY",
    "DEAD_LETTERS",
    "DEAD_STREAM",
    "DEAD_SUBJECTS",
    "DUPLICATE_WINDOW",
    "EVENTS_STREAM",
    "EVENTS_SUBJECTS",
    "TRIALS",
    "TRIALS_STREAM",
    "TRIALS_SUBJECTS",
    "ConsumerDeclaration",
    "StreamDeclaration",
    "StreamInfo",
    "ensure_stream",
    "examine_stream",
    "jetstream",
    "require_stream",
    "show_stream",
    "unavailable",
    "watermark",
]


async def watermark(connection: Connection, subject: str) -> Watermark:
    """
    Return how far the stream that takes *subject* has come.

    Raises:
        StreamMissing: no stream takes it.
        NatsUnavailable: the server did not answer, or said no.

    """
    js = await jetstream(connection)
    try:
        name = await js.find_stream_name_by_subject(subject)
    except NotFoundError as exc:
        raise StreamMissing(untaken(subject)) from exc
    except (NatsError, APIError) as exc:
        raise unavailable(connection, connection.api("STREAM.NAMES"), exc) from exc
    info = await show_stream(connection, name)
    return Watermark(str(info.created), info.state.last_seq)
