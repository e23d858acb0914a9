"""Streams and consumers as declared: created when missing, refused when different, never silently changed."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.api import ConsumerInfo, StreamInfo
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
    consumer_config,
    lanes_of,
    stream_config,
)
from noetl_events.jetstream.errors import (
    ConsumerMissing,
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
    "ConsumerInfo",
    "StreamDeclaration",
    "StreamInfo",
    "ensure_consumer",
    "ensure_stream",
    "jetstream",
    "require_consumer",
    "require_stream",
    "reset_consumer",
    "show_consumer",
    "show_stream",
    "unavailable",
    "unpin_consumer",
    "watermark",
]

_RESET_SINCE: Final = (2, 14)


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


async def ensure_consumer(connection: Connection, declared: ConsumerDeclaration) -> ConsumerInfo:
    """
    Return the consumer as it is on the server, created from the start of the stream if it was missing.

    Raises:
        TopologyDrift: it exists and differs, or its stream has other partitions.
        StreamMissing: its stream does not exist.
        NatsUnavailable: the server did not answer, or said no.

    """
    js = await jetstream(connection)
    wanted = consumer_config(declared)
    if declared.partitions:
        await _require_lanes(connection, declared)
    try:
        info = await _find_consumer(js, declared) or await js.add_consumer(declared.stream, wanted)
        actual = vars(info.config) | (await _pinning(connection, declared) if declared.exclusive else {})
    except NotFoundError as exc:
        raise StreamMissing(f"stream {declared.stream} does not exist; run `noetl-events stream ensure`") from exc
    except (NatsError, APIError) as exc:
        raise unavailable(
            connection, connection.api(f"CONSUMER.CREATE.{declared.stream}.{declared.name}"), exc
        ) from exc
    _refuse_drift("consumer", declared.name, vars(wanted), actual)
    return info


async def show_consumer(connection: Connection, declared: ConsumerDeclaration) -> ConsumerInfo:
    """
    Return the consumer as it is on the server.

    Raises:
        ConsumerMissing: there is none of this name, or no stream.
        NatsUnavailable: the server did not answer, or said no.

    """
    js = await jetstream(connection)
    try:
        info = await _find_consumer(js, declared)
    except (NatsError, APIError) as exc:
        raise unavailable(connection, connection.api(f"CONSUMER.INFO.{declared.stream}.{declared.name}"), exc) from exc
    if info is None:
        raise ConsumerMissing(f"consumer {declared.name} of stream {declared.stream} does not exist")
    return info


async def require_consumer(connection: Connection, declared: ConsumerDeclaration) -> ConsumerInfo:
    """
    Return the consumer as it is on the server, which is as declared.

    Raises:
        TopologyDrift: it differs.
        ConsumerMissing: there is none of this name, or no stream.
        NatsUnavailable: the server did not answer, or said no.

    """
    info = await show_consumer(connection, declared)
    actual = vars(info.config) | (await _pinning(connection, declared) if declared.exclusive else {})
    _refuse_drift("consumer", declared.name, vars(consumer_config(declared)), actual)
    return info


async def reset_consumer(connection: Connection, declared: ConsumerDeclaration) -> None:
    """
    Have the consumer deliver again, in order, whatever comes behind its last contiguous acknowledgement (ADR-60).

    Raises:
        TopologyDrift: the server is older than 2.14 and cannot.
        NatsUnavailable: the server did not answer, or said no.

    """
    version = await _server_version(connection)
    if version < _RESET_SINCE:
        raise TopologyDrift("consumer", declared.name, [("exclusive: server version", "2.14 or newer", version)])
    subject = connection.api(f"CONSUMER.RESET.{declared.stream}.{declared.name}")
    await _request(connection, subject)


async def unpin_consumer(connection: Connection, declared: ConsumerDeclaration, pin: dict[str, str]) -> None:
    """Let the consumer serve somebody else now, and not only when our pin has expired; nobody waits for the answer."""
    with suppress(NatsError, NatsUnavailable, OSError):
        client = await connection.client()
        if client.is_connected:
            subject = connection.api(f"CONSUMER.UNPIN.{declared.stream}.{declared.name}")
            await client.publish(subject, json.dumps({"group": pin["group"]}).encode())


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


async def _find_consumer(js: JetStreamContext, declared: ConsumerDeclaration) -> ConsumerInfo | None:
    try:
        info: ConsumerInfo = await js.consumer_info(declared.stream, declared.name)
    except NotFoundError:
        return None
    return info


async def _require_lanes(connection: Connection, declared: ConsumerDeclaration) -> None:
    """Refuse to read one lane of a stream that has others: what went elsewhere would never be read."""
    config = (await show_stream(connection, declared.stream)).config
    wanted = lanes_of(StreamDeclaration(subjects=tuple(config.subjects or ()), partitions=declared.partitions))
    if config.subject_transform != wanted:
        raise TopologyDrift("stream", declared.stream, [("subject_transform", wanted, config.subject_transform)])


async def _pinning(connection: Connection, declared: ConsumerDeclaration) -> dict[str, Any]:
    """
    Return what nats-py 2.16 drops of a consumer's configuration.

    Raises:
        NatsUnavailable: the consumer was deleted meanwhile, or nobody answered: no difference to tell of.

    """
    info = await _request(connection, connection.api(f"CONSUMER.INFO.{declared.stream}.{declared.name}"))
    return {name: value for name, value in info.get("config", {}).items() if name.startswith("priority_")}


async def _request(connection: Connection, subject: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads((await (await connection.client()).request(subject, timeout=5)).data)
    except NatsError as exc:
        raise unavailable(connection, subject, exc) from exc
    if error := answer.get("error"):
        raise NatsUnavailable(f"{subject}: {error.get('description')}")
    return answer


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
