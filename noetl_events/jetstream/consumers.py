"""Durable consumers on the server: list, compare, create missing ones, and reset on request; none is changed."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from noetl_events.jetstream.api import ask, jetstream, require_version, unavailable
from noetl_events.jetstream.consumer_config import config_of, differences, filters_of
from noetl_events.jetstream.declarations import includes
from noetl_events.jetstream.errors import (
    ConsumerDrift,
    ConsumerMissing,
    NatsUnavailable,
    Refused,
    StreamDrift,
    StreamMissing,
)
from noetl_events.jetstream.stream_config import Deviation, has_partitions
from noetl_events.jetstream.streams import find_stream, missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import ConsumerDeclaration
    from noetl_events.jetstream.publish.replies import ReplyError

_RESET_SINCE: Final = (2, 14)
_CONSUMER_NOT_FOUND: Final = 10014
_STREAM_NOT_FOUND: Final = 10059
_EXISTS_ALREADY: Final = (10105, 10148)
_TOO_MANY_CONSUMERS: Final = 10026
_TOO_MANY_PENDING: Final = 10121
_THRESHOLD_TOO_LONG: Final = 10153


class SequenceInfo(msgspec.Struct, frozen=True):
    """A position of a consumer: a stream sequence, and the number of deliveries up to it."""

    stream_seq: int = 0
    consumer_seq: int = 0


class ConsumerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """
    A consumer as the server describes it.

    Args:
        stream_name: name of its stream.
        name: name of the consumer.
        created: creation time in the server's format.
        config: configuration as the server's JSON, unknown fields included.
        delivered: position of the last first delivery.
        ack_floor: position up to which everything is acknowledged.
        num_ack_pending: number of messages delivered and not acknowledged.
        num_redelivered: number of messages delivered more than once and not acknowledged.
        num_pending: number of messages not delivered yet.
        num_waiting: number of waiting pull requests.
        paused: True while an operator has paused the consumer.
        pause_remaining: nanoseconds until the end of the pause.

    """

    stream_name: str
    name: str
    created: str = ""
    config: dict[str, Any] = msgspec.field(default_factory=dict)
    delivered: SequenceInfo = SequenceInfo()
    ack_floor: SequenceInfo = SequenceInfo()
    num_ack_pending: int = 0
    num_redelivered: int = 0
    num_pending: int = 0
    num_waiting: int = 0
    paused: bool = False
    pause_remaining: int = 0


_info = msgspec.json.Decoder(ConsumerInfo)


async def ensure_consumer(connection: Connection, declared: ConsumerDeclaration) -> ConsumerInfo:
    """
    Return the consumer as it is on the server, created from the start of the stream if it was missing.

    Raises:
        ServerTooOld: the server does not support such a consumer.
        ConsumerDrift: the consumer exists, and must not be read.
        StreamDrift: its stream has other partitions.
        StreamMissing: its stream does not exist.
        NatsUnavailable: the server did not answer, or answered with an error.

    """
    await require_server(connection, declared)
    if declared.partitions:
        await _require_partitions(connection, declared)
    try:
        info = await show_consumer(connection, declared)
    except ConsumerMissing:
        info = await _create(connection, declared)
    await _require_whole(connection, declared, info)
    return info


async def make_ephemeral(connection: Connection, stream: str, config: dict[str, Any]) -> ConsumerInfo:
    """
    Create a consumer that ends with its reader, idle for no longer than *stream* allows; the server chooses its name.

    Raises:
        StreamMissing: the stream does not exist.
        Refused: the server refuses such a consumer.
        NatsUnavailable: the server did not answer, or answered with an error.

    """
    data, error = await _ask_for_ephemeral(connection, stream, config)
    if error is not None and error.err_code == _THRESHOLD_TOO_LONG:
        limits = (await find_stream(connection, stream)).config.get("consumer_limits") or {}
        kept = {"inactive_threshold": limits.get("inactive_threshold", 0)}
        data, error = await _ask_for_ephemeral(connection, stream, config | kept)
    if error is not None and error.err_code == _STREAM_NOT_FOUND:
        raise StreamMissing(missing(stream))
    return _read(f"consumer of stream {stream}", error, data)


async def _ask_for_ephemeral(
    connection: Connection, stream: str, config: dict[str, Any]
) -> tuple[bytes, ReplyError | None]:
    body = {"stream_name": stream, "config": config}
    return await ask(connection, f"CONSUMER.CREATE.{stream}", json.dumps(body).encode())


async def show_consumer(connection: Connection, declared: ConsumerDeclaration) -> ConsumerInfo:
    """
    Return the consumer as it is on the server.

    Raises:
        ConsumerMissing: the consumer or its stream does not exist.
        NatsUnavailable: the server did not answer, or answered with an error.

    """
    data, error = await ask(connection, f"CONSUMER.INFO.{declared.stream}.{declared.name}")
    if error is not None and error.err_code in {_CONSUMER_NOT_FOUND, _STREAM_NOT_FOUND}:
        raise ConsumerMissing(f"consumer {declared.name} of stream {declared.stream} does not exist")
    return _read(_place(declared), error, data)


async def require_consumer(connection: Connection, declared: ConsumerDeclaration) -> ConsumerInfo:
    """
    Return the consumer as it is on the server, after checking that it may be read.

    Raises:
        ServerTooOld: the server does not support such a consumer.
        ConsumerDrift: the consumer must not be read.
        ConsumerMissing: the consumer or its stream does not exist.
        NatsUnavailable: the server did not answer, or answered with an error.

    """
    await require_server(connection, declared)
    info = await show_consumer(connection, declared)
    await _require_whole(connection, declared, info)
    return info


async def require_server(connection: Connection, declared: ConsumerDeclaration) -> None:
    """
    Check that the server supports the declared consumer.

    Raises:
        ServerTooOld: the server does not support it.
        NatsUnavailable: no server accepted the connection.

    """
    if declared.exclusive:
        await require_version(connection, "partitions" if declared.partitions else "--standby", since=_RESET_SINCE)


async def can_reset(connection: Connection) -> bool:
    """Return True if the server can reset a consumer; raises `NatsUnavailable`."""
    version = (await connection.client()).connected_server_version
    return (version.major, version.minor) >= _RESET_SINCE


async def reset_consumer(connection: Connection, declared: ConsumerDeclaration, *, start: int = 0) -> ConsumerInfo:
    """
    Reset the consumer to sequence *start*, so it delivers again from there in order (ADR-60, server 2.14); return it.

    Without *start* the consumer continues after its ack floor.

    Raises:
        NatsUnavailable: the server did not answer, or answered with an error.

    """
    body = json.dumps({"seq": start}).encode() if start else b""
    data, error = await ask(connection, f"CONSUMER.RESET.{declared.stream}.{declared.name}", body)
    return _read(_place(declared), error, data)


async def unpin_consumer(connection: Connection, declared: ConsumerDeclaration, pin: dict[str, str]) -> None:
    """Release the pin of this client before it expires, so another client is served; do not wait for the answer."""
    with suppress(NatsError, NatsUnavailable, OSError):
        if connection.is_connected:
            client = await connection.client()
            subject = connection.api(f"CONSUMER.UNPIN.{declared.stream}.{declared.name}")
            await client.publish(subject, json.dumps({"group": pin["group"]}).encode())


async def _create(connection: Connection, declared: ConsumerDeclaration) -> ConsumerInfo:
    """Create the consumer, with as many pending acknowledgements as stream, account and server allow."""
    config = config_of(declared)
    error, data = await _try_to_create(connection, declared, config)
    if error is not None and error.err_code == _TOO_MANY_PENDING and (limit := re.search(r"\d+$", error.description)):
        config["max_ack_pending"] = int(limit[0])
        error, data = await _try_to_create(connection, declared, config)
    if error is not None and error.err_code == _STREAM_NOT_FOUND:
        raise StreamMissing(missing(declared.stream))
    if error is not None and error.err_code in _EXISTS_ALREADY:
        # Another process has created a different consumer meanwhile.
        return await show_consumer(connection, declared)
    return _read(_place(declared), error, data)


async def _try_to_create(
    connection: Connection, declared: ConsumerDeclaration, config: dict[str, Any]
) -> tuple[ReplyError | None, bytes]:
    # Without the action, the server would change a consumer that was created meanwhile.
    body = {"stream_name": declared.stream, "config": config, "action": "create"}
    request = f"CONSUMER.DURABLE.CREATE.{declared.stream}.{declared.name}"
    data, error = await ask(connection, request, json.dumps(body).encode())
    return error, data


async def _require_whole(connection: Connection, declared: ConsumerDeclaration, info: ConsumerInfo) -> None:
    """Raise `ConsumerDrift` if the consumer does not deliver every message in full to each client."""
    delivers_all = False
    if filters_of(info.config) and not declared.filter_subjects:
        delivers_all = _covers(filters_of(info.config), (await find_stream(connection, declared.stream)).config)
    if found := differences(declared, info.config, delivers_all=delivers_all):
        raise ConsumerDrift(declared.stream, declared.name, found)


def _covers(filters: frozenset[str], config: Mapping[str, Any]) -> bool:
    """Return True if every possible message of a stream with *config* matches one of *filters*."""
    if ">" in filters:
        return True
    # Messages from other streams, or with transformed subjects, may have any subject.
    plain = not any(config.get(field) for field in ("mirror", "sources", "subject_transform"))
    subjects = config.get("subjects") or ()
    return plain and all(any(includes(each, subject) for each in filters) for subject in subjects)


async def _require_partitions(connection: Connection, declared: ConsumerDeclaration) -> None:
    """Raise `StreamDrift` if the stream has other partitions, because messages of those would never be read."""
    config = (await find_stream(connection, declared.stream)).config
    if not has_partitions(config, declared.filter_subjects[0], declared.partitions):
        found = (config.get("subject_transform") or {}).get("dest")
        wanted, meaning = f"{declared.partitions} partitions", "the projector would miss events in other partitions"
        raise StreamDrift(declared.stream, [Deviation("subject_transform", wanted, found, meaning, "refused")])


def _place(declared: ConsumerDeclaration) -> str:
    return f"consumer {declared.name} of stream {declared.stream}"


def _read(place: str, error: ReplyError | None, data: bytes) -> ConsumerInfo:
    if error is not None:
        words = f"{place}: {error.description} ({error.err_code})"
        # This error ends when another consumer is deleted, so it is no final refusal.
        is_final = error.code in {400, 409} and error.err_code != _TOO_MANY_CONSUMERS
        raise Refused(words) if is_final else NatsUnavailable(words)
    try:
        return _info.decode(data)
    except ValueError as exc:
        raise NatsUnavailable(f"{place}: unreadable answer: {exc}") from exc


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """
    The lag of a durable consumer.

    Args:
        name: name of the consumer.
        pending: number of messages not delivered yet.
        ack_pending: number of messages delivered and not acknowledged.

    """

    name: str
    pending: int
    ack_pending: int


async def durable_consumers(connection: Connection, stream: str) -> list[Reading]:
    """
    Return the durable consumers of *stream*, by name: the first 256 the server lists.

    Raises:
        NatsUnavailable: the server did not answer, or answered with an error.

    """
    js = await jetstream(connection)
    try:
        infos = await js.consumers_info(stream)
    except (NatsError, APIError) as exc:
        raise unavailable(connection, connection.api(f"CONSUMER.LIST.{stream}"), exc) from exc
    readings = [
        Reading(name=info.name, pending=info.num_pending or 0, ack_pending=info.num_ack_pending or 0)
        for info in infos
        if info.config.durable_name
    ]
    return sorted(readings, key=lambda reading: reading.name)
