"""Streams as declared: created when missing, refused when different, never silently changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.api import StreamInfo
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

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
    stream_config,
)
from noetl_events.jetstream.errors import (
    NatsUnavailable,
    PermissionDenied,
    StreamMissing,
    TopologyDrift,
)
from noetl_events.spool.watermark import Watermark

if TYPE_CHECKING:
    from nats.js import JetStreamContext

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
    "jetstream",
    "require_stream",
    "show_stream",
    "unavailable",
    "watermark",
]


async def ensure_stream(connection: Connection, declared: StreamDeclaration) -> StreamInfo:
    """
    Return the stream as it is on the server, created if it was missing.

    Raises:
        TopologyDrift: it exists and differs.
        NatsUnavailable: the server did not answer, or said no.

    """
    try:
        return await require_stream(connection, declared)
    except StreamMissing:
        js, wanted = await jetstream(connection), stream_config(declared, await _server_version(connection))
        try:
            info = await js.add_stream(wanted)
        except (NatsError, APIError) as exc:
            raise unavailable(connection, connection.api(f"STREAM.CREATE.{declared.name}"), exc) from exc
    _refuse_drift("stream", declared.name, vars(wanted), vars(info.config))
    return info


async def require_stream(connection: Connection, declared: StreamDeclaration) -> StreamInfo:
    """
    Return the stream as it is on the server, which is as declared.

    Raises:
        TopologyDrift: it differs.
        StreamMissing: there is none of this name.
        NatsUnavailable: the server did not answer, or said no.

    """
    wanted = stream_config(declared, await _server_version(connection))
    info = await show_stream(connection, declared.name)
    _refuse_drift("stream", declared.name, vars(wanted), vars(info.config))
    return info


async def show_stream(connection: Connection, name: str) -> StreamInfo:
    """
    Return the stream as it is on the server.

    Raises:
        StreamMissing: there is none of this name.
        NatsUnavailable: the server did not answer, or said no.

    """
    js = await jetstream(connection)
    try:
        return await js.stream_info(name)
    except NotFoundError as exc:
        raise StreamMissing(f"stream {name} does not exist; run `noetl-events stream ensure`") from exc
    except (NatsError, APIError) as exc:
        raise unavailable(connection, connection.api(f"STREAM.INFO.{name}"), exc) from exc


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
        raise StreamMissing(f"no stream takes {subject}; run `noetl-events stream ensure`") from exc
    except (NatsError, APIError) as exc:
        raise unavailable(connection, connection.api("STREAM.NAMES"), exc) from exc
    info = await show_stream(connection, name)
    return Watermark(str(info.created), info.state.last_seq)


async def jetstream(connection: Connection) -> JetStreamContext:
    """Return the JetStream context of the client as it is now."""
    return await connection.jetstream()


def unavailable(connection: Connection, subject: str, exc: Exception) -> NatsUnavailable:
    """Return what a failed request on *subject* means: nats-py reports a denial as nothing but a timeout."""
    if denial := connection.denial(subject):
        return PermissionDenied(denial)
    # A 503 without a code is what nats-py makes of a request that nobody listens to.
    if isinstance(exc, NoRespondersError) or (isinstance(exc, ServiceUnavailableError) and exc.code is None):
        return NatsUnavailable("JetStream does not answer; is it enabled for this account?")
    return NatsUnavailable(f"{subject}: {str(exc) or type(exc).__name__}")


async def _server_version(connection: Connection) -> tuple[int, int]:
    version = (await connection.client()).connected_server_version
    return version.major, version.minor


def _refuse_drift(kind: str, name: str, wanted: dict[str, Any], actual: dict[str, Any]) -> None:
    differences = [
        (field, value, actual.get(field))
        for field, value in wanted.items()
        if value is not None and value != actual.get(field)
    ]
    if differences:
        raise TopologyDrift(kind, name, differences)
