"""Streams and consumers as declared: created when missing, refused when different, never silently changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
)
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from noetl_events.jetstream.errors import NatsUnavailable, PermissionDenied, StreamMissing, TopologyDrift
from noetl_events.spool.watermark import Watermark

if TYPE_CHECKING:
    from nats.js import JetStreamContext

    from noetl_events.jetstream.connection import Connection

__all__ = [
    "DEAD_LETTERS",
    "ConsumerDeclaration",
    "ConsumerInfo",
    "StreamDeclaration",
    "StreamInfo",
    "ensure_consumer",
    "ensure_stream",
    "jetstream",
    "show_stream",
    "unavailable",
    "watermark",
]

EVENTS_STREAM: Final = "noetl_events"
EVENTS_SUBJECTS: Final = "noetl.events.>"
DEAD_STREAM: Final = "noetl_events_dead"
DEAD_SUBJECTS: Final = "noetl.dead.>"

_BATCHED_SINCE: Final = (2, 14)
_ATOMIC_SINCE: Final = (2, 12)


class StreamDeclaration(msgspec.Struct, frozen=True, kw_only=True):
    """
    A stream as it shall be: files, limits retention, direct gets, batch publishing where the server has it.

    Args:
        name: of the stream.
        subjects: it stores.
        max_age: seconds a message is kept; 0 for ever.
        max_bytes: of the whole stream; -1 without a limit.
        duplicate_window: seconds a `Nats-Msg-Id` is remembered; each costs the server about 230 bytes.
        replicas: 1, 3 or 5.

    """

    name: str = EVENTS_STREAM
    subjects: tuple[str, ...] = (EVENTS_SUBJECTS,)
    max_age: float = 86_400.0
    max_bytes: int = -1
    duplicate_window: float = 120.0
    replicas: int = 1


class ConsumerDeclaration(msgspec.Struct, frozen=True, kw_only=True):
    """
    A durable pull consumer as it shall be: every message from the first, acknowledged one by one, delivered for ever.

    Args:
        name: of the durable.
        stream: it reads.
        filter_subject: of the messages it wants; empty for all.
        ack_wait: seconds until an unacknowledged message is delivered again.
        max_ack_pending: messages delivered and not acknowledged, over all replicas.

    """

    name: str
    stream: str = EVENTS_STREAM
    filter_subject: str = ""
    ack_wait: float = 30.0
    max_ack_pending: int = 20_000


DEAD_LETTERS: Final = StreamDeclaration(name=DEAD_STREAM, subjects=(DEAD_SUBJECTS,), max_age=30 * 86_400.0)


async def ensure_stream(connection: Connection, declared: StreamDeclaration) -> StreamInfo:
    """
    Return the stream as it is on the server, created if it was missing.

    Raises:
        TopologyDrift: it exists and differs.
        NatsUnavailable: the server did not answer, or said no.

    """
    js = await jetstream(connection)
    wanted = _stream_config(declared, await _server_version(connection))
    try:
        info = await show_stream(connection, declared.name)
    except StreamMissing:
        try:
            info = await js.add_stream(wanted)
        except (NatsError, APIError) as exc:
            raise unavailable(connection, f"$JS.API.STREAM.CREATE.{declared.name}", exc) from exc
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
        raise unavailable(connection, f"$JS.API.STREAM.INFO.{name}", exc) from exc


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
        raise unavailable(connection, "$JS.API.STREAM.NAMES", exc) from exc
    info = await show_stream(connection, name)
    return Watermark(str(info.created), info.state.last_seq)


async def ensure_consumer(connection: Connection, declared: ConsumerDeclaration) -> ConsumerInfo:
    """
    Return the consumer as it is on the server, created from the start of the stream if it was missing.

    Raises:
        TopologyDrift: it exists and differs.
        StreamMissing: its stream does not exist.
        NatsUnavailable: the server did not answer, or said no.

    """
    js = await jetstream(connection)
    wanted = _consumer_config(declared)
    try:
        info = await _find_consumer(js, declared) or await js.add_consumer(declared.stream, wanted)
    except NotFoundError as exc:
        raise StreamMissing(f"stream {declared.stream} does not exist; run `noetl-events stream ensure`") from exc
    except (NatsError, APIError) as exc:
        raise unavailable(connection, f"$JS.API.CONSUMER.CREATE.{declared.stream}.{declared.name}", exc) from exc
    _refuse_drift("consumer", declared.name, vars(wanted), vars(info.config))
    return info


async def jetstream(connection: Connection) -> JetStreamContext:
    """Return the JetStream context of the client as it is now."""
    return (await connection.client()).jetstream()


def unavailable(connection: Connection, subject: str, exc: Exception) -> NatsUnavailable:
    """Return what a failed request on *subject* means: nats-py reports a denial as nothing but a timeout."""
    if denial := connection.denial(subject):
        return PermissionDenied(denial)
    # A 503 without a code is what nats-py makes of a request that nobody listens to.
    if isinstance(exc, NoRespondersError) or (isinstance(exc, ServiceUnavailableError) and exc.code is None):
        return NatsUnavailable("JetStream does not answer; is it enabled for this account?")
    return NatsUnavailable(f"{subject}: {str(exc) or type(exc).__name__}")


async def _find_consumer(js: JetStreamContext, declared: ConsumerDeclaration) -> ConsumerInfo | None:
    try:
        info: ConsumerInfo = await js.consumer_info(declared.stream, declared.name)
    except NotFoundError:
        return None
    return info


async def _server_version(connection: Connection) -> tuple[int, int]:
    version = (await connection.client()).connected_server_version
    return version.major, version.minor


def _stream_config(declared: StreamDeclaration, version: tuple[int, int]) -> StreamConfig:
    # A server refuses fields it does not know, so what is younger than it stays out.
    return StreamConfig(
        name=declared.name,
        subjects=list(declared.subjects),
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        max_age=declared.max_age,
        max_bytes=declared.max_bytes,
        duplicate_window=declared.duplicate_window,
        num_replicas=declared.replicas,
        allow_direct=True,
        allow_atomic=True if version >= _ATOMIC_SINCE else None,
        allow_batched=True if version >= _BATCHED_SINCE else None,
    )


def _consumer_config(declared: ConsumerDeclaration) -> ConsumerConfig:
    return ConsumerConfig(
        durable_name=declared.name,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=declared.ack_wait,
        # A finite number would hide what was delivered too often: it stays in the stream and leaves the lag.
        max_deliver=-1,
        max_ack_pending=declared.max_ack_pending,
        filter_subject=declared.filter_subject or None,
    )


def _refuse_drift(kind: str, name: str, wanted: dict[str, Any], actual: dict[str, Any]) -> None:
    differences = [
        (field, value, actual.get(field))
        for field, value in wanted.items()
        if value is not None and value != actual.get(field)
    ]
    if differences:
        raise TopologyDrift(kind, name, differences)
