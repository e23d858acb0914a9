"""Durable consumers on the server: looked at whole, created when missing, never changed, set back on request."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
from nats.errors import Error as NatsError

from noetl_events.jetstream.consumer_config import config_of, differences, filters_of
from noetl_events.jetstream.declarations import StreamDeclaration, lanes_of
from noetl_events.jetstream.errors import (
    ConsumerDrift,
    ConsumerMissing,
    NatsUnavailable,
    Refused,
    ServerTooOld,
    StreamMissing,
    TopologyDrift,
)
from noetl_events.jetstream.replies import ReplyError
from noetl_events.jetstream.topology import show_stream, unavailable

if TYPE_CHECKING:
    from nats.js.api import StreamConfig

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import ConsumerDeclaration

_TIMEOUT: Final = 5.0
_RESET_SINCE: Final = (2, 14)
_CONSUMER_NOT_FOUND: Final = 10014
_STREAM_NOT_FOUND: Final = 10059
_EXISTS_ALREADY: Final = (10105, 10148)
_TOO_MANY_PENDING: Final = 10121


class Position(msgspec.Struct, frozen=True):
    """How far a consumer is: a sequence of the stream, and how many deliveries that took."""

    stream_seq: int = 0
    consumer_seq: int = 0


class ConsumerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """
    A consumer as the server describes it.

    Args:
        stream_name: of its stream.
        name: of it.
        created: when, in the server's words.
        config: the server's JSON, with the fields that this version does not know.
        delivered: the last message that was delivered for the first time.
        ack_floor: up to there everything is acknowledged.
        num_ack_pending: messages delivered and not acknowledged.
        num_pending: messages not delivered yet.
        num_waiting: pull requests that wait.
        paused: it delivers nothing now, because an operator has said so.
        pause_remaining: nanoseconds until it delivers again.

    """

    stream_name: str
    name: str
    created: str = ""
    config: dict[str, Any] = msgspec.field(default_factory=dict)
    delivered: Position = Position()
    ack_floor: Position = Position()
    num_ack_pending: int = 0
    num_pending: int = 0
    num_waiting: int = 0
    paused: bool = False
    pause_remaining: int = 0


class _Answer(msgspec.Struct, frozen=True):
    error: ReplyError | None = None


_error = msgspec.json.Decoder(_Answer)
_info = msgspec.json.Decoder(ConsumerInfo)


async def ensure_consumer(connection: Connection, declared: ConsumerDeclaration) -> ConsumerInfo:
    """
    Return the consumer as it is on the server, created from the start of the stream if it was missing.

    Raises:
        ServerTooOld: the server cannot serve such a consumer.
        ConsumerDrift: it exists, and must not be read.
        TopologyDrift: its stream has other partitions.
        StreamMissing: its stream does not exist.
        NatsUnavailable: the server did not answer, or said no.

    """
    await require_version(connection, declared)
    if declared.partitions:
        await _require_lanes(connection, declared)
    try:
        info = await show_consumer(connection, declared)
    except ConsumerMissing:
        info = await _create(connection, declared)
    await _require_whole(connection, declared, info)
    return info


async def show_consumer(connection: Connection, declared: ConsumerDeclaration) -> ConsumerInfo:
    """
    Return the consumer as it is on the server.

    Raises:
        ConsumerMissing: there is none of this name, or no stream.
        NatsUnavailable: the server did not answer, or said no.

    """
    data = await _ask(connection, f"CONSUMER.INFO.{declared.stream}.{declared.name}")
    error = _error.decode(data).error
    if error is not None and error.err_code in {_CONSUMER_NOT_FOUND, _STREAM_NOT_FOUND}:
        raise ConsumerMissing(f"consumer {declared.name} of stream {declared.stream} does not exist")
    return _read(declared, error, data)


async def require_consumer(connection: Connection, declared: ConsumerDeclaration) -> ConsumerInfo:
    """
    Return the consumer as it is on the server, which may be read.

    Raises:
        ServerTooOld: the server cannot serve such a consumer.
        ConsumerDrift: it must not be read.
        ConsumerMissing: there is none of this name, or no stream.
        NatsUnavailable: the server did not answer, or said no.

    """
    await require_version(connection, declared)
    info = await show_consumer(connection, declared)
    await _require_whole(connection, declared, info)
    return info


async def require_version(connection: Connection, declared: ConsumerDeclaration) -> None:
    """
    Return if the server can serve a consumer that is declared so.

    Raises:
        ServerTooOld: it cannot.
        NatsUnavailable: no server took us.

    """
    version = (await connection.client()).connected_server_version
    if declared.exclusive and (version.major, version.minor) < _RESET_SINCE:
        option = "partitions need" if declared.partitions else "--standby needs"
        raise ServerTooOld(
            f"{option} nats-server 2.14 or newer, and this is {version.major}.{version.minor}.{version.patch}: use a "
            f"newer server, or read without {'partitions' if declared.partitions else '--standby'}"
        )


async def can_reset(connection: Connection) -> bool:
    """Return whether the server can set a consumer back; raises `NatsUnavailable`."""
    version = (await connection.client()).connected_server_version
    return (version.major, version.minor) >= _RESET_SINCE


async def reset_consumer(connection: Connection, declared: ConsumerDeclaration, *, start: int = 0) -> ConsumerInfo:
    """
    Have the consumer deliver again, in order, what comes from sequence *start* on, and return it (ADR-60, server 2.14).

    Without *start* that is whatever comes behind its last contiguous acknowledgement.

    Raises:
        NatsUnavailable: the server did not answer, or said no.

    """
    body = json.dumps({"seq": start}).encode() if start else b""
    data = await _ask(connection, f"CONSUMER.RESET.{declared.stream}.{declared.name}", body)
    return _read(declared, _error.decode(data).error, data)


async def unpin_consumer(connection: Connection, declared: ConsumerDeclaration, pin: dict[str, str]) -> None:
    """Let the consumer serve another puller now, before our pin has expired; the answer is not waited for."""
    with suppress(NatsError, NatsUnavailable, OSError):
        client = await connection.client()
        if client.is_connected:
            subject = connection.api(f"CONSUMER.UNPIN.{declared.stream}.{declared.name}")
            await client.publish(subject, json.dumps({"group": pin["group"]}).encode())


async def _create(connection: Connection, declared: ConsumerDeclaration) -> ConsumerInfo:
    """Create the consumer, with as many messages on their way as the stream, the account and the server allow."""
    config = config_of(declared)
    error, data = await _try_to_create(connection, declared, config)
    if error is not None and error.err_code == _TOO_MANY_PENDING and (limit := re.search(r"\d+$", error.description)):
        config["max_ack_pending"] = int(limit[0])
        error, data = await _try_to_create(connection, declared, config)
    if error is not None and error.err_code == _STREAM_NOT_FOUND:
        raise StreamMissing(f"stream {declared.stream} does not exist; run `noetl-events stream ensure`")
    if error is not None and error.err_code in _EXISTS_ALREADY:
        # Another process was faster, and has made a different one.
        return await show_consumer(connection, declared)
    return _read(declared, error, data)


async def _try_to_create(
    connection: Connection, declared: ConsumerDeclaration, config: dict[str, Any]
) -> tuple[ReplyError | None, bytes]:
    # Without the action the server would change one that was made meanwhile.
    body = {"stream_name": declared.stream, "config": config, "action": "create"}
    data = await _ask(
        connection, f"CONSUMER.DURABLE.CREATE.{declared.stream}.{declared.name}", json.dumps(body).encode()
    )
    return _error.decode(data).error, data


async def _require_whole(connection: Connection, declared: ConsumerDeclaration, info: ConsumerInfo) -> None:
    """Refuse a consumer that does not deliver every message, whole, to who asks."""
    delivers_all = False
    if filters_of(info.config) and not declared.filter_subjects:
        delivers_all = _covers(filters_of(info.config), (await show_stream(connection, declared.stream)).config)
    if found := differences(declared, info.config, delivers_all=delivers_all):
        raise ConsumerDrift(declared.stream, declared.name, found)


def _covers(filters: frozenset[str], config: StreamConfig) -> bool:
    """Return whether every message a stream with *config* can have matches one of *filters*."""
    if ">" in filters:
        return True
    # What comes from other streams, or under other subjects than it was published to, may be anything.
    plain = not (config.mirror or config.sources or config.subject_transform)
    return plain and all(any(_includes(each, subject) for each in filters) for subject in config.subjects or ())


def _includes(pattern: str, subject: str) -> bool:
    """Return whether *pattern* matches everything that *subject* does; wildcards of both count."""
    wanted, given = pattern.split("."), subject.split(".")
    for place, word in enumerate(wanted):
        if word == ">":
            return len(given) > place
        if place >= len(given) or given[place] == ">" or word not in {"*", given[place]}:
            return False
    return len(given) == len(wanted)


async def _require_lanes(connection: Connection, declared: ConsumerDeclaration) -> None:
    """Refuse to read one lane of a stream that has others: what went elsewhere would never be read."""
    config = (await show_stream(connection, declared.stream)).config
    wanted = lanes_of(StreamDeclaration(subjects=tuple(config.subjects or ()), partitions=declared.partitions))
    if config.subject_transform != wanted:
        raise TopologyDrift("stream", declared.stream, [("subject_transform", wanted, config.subject_transform)])


async def _ask(connection: Connection, request: str, body: bytes = b"") -> bytes:
    subject = connection.api(request)
    client = await connection.client()
    try:
        return (await client.request(subject, body, timeout=_TIMEOUT)).data
    except (NatsError, OSError) as exc:
        raise unavailable(connection, subject, exc) from exc


def _read(declared: ConsumerDeclaration, error: ReplyError | None, data: bytes) -> ConsumerInfo:
    if error is not None:
        words = f"consumer {declared.name} of stream {declared.stream}: {error.description} ({error.err_code})"
        raise Refused(words) if error.code in {400, 409} else NatsUnavailable(words)
    try:
        return _info.decode(data)
    except ValueError as exc:
        words = f"consumer {declared.name} of stream {declared.stream}: unreadable answer: {exc}"
        raise NatsUnavailable(words) from exc
