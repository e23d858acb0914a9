"""
Declared streams: create missing ones, refuse different ones, never change one silently.

A `StreamPosition` is the creation time of a stream and its last sequence.  Comparing two of them shows a loss of
messages that the stream had acknowledged.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import msgspec
from nats.errors import Error as NatsError
from nats.js.api import StreamInfo
from nats.js.errors import APIError, NotFoundError

from noetl_events.jetstream.api import ask, jetstream, require_version, server_version, unavailable
from noetl_events.jetstream.errors import NatsUnavailable, StreamDrift, StreamMissing, StreamRefused
from noetl_events.jetstream.stream_config import CAPABILITIES, deviations, stream_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration
    from noetl_events.jetstream.publish.replies import ReplyError
    from noetl_events.jetstream.stream_config import Deviation

__all__ = [
    "FoundStream",
    "HasStreamPosition",
    "StreamInfo",
    "StreamPosition",
    "StreamState",
    "ensure_stream",
    "examine_stream",
    "explained",
    "find_stream",
    "lacking",
    "missing",
    "require_stream",
    "show_stream",
    "untaken",
    "watermark",
]


class StreamPosition(msgspec.Struct, frozen=True):
    """
    The end of a stream.

    Args:
        created: creation time in the server's format, which differs for a recreated stream, but not for a restored one.
        last_seq: sequence of the last message; a server never decreases it, unless its disk lost messages.

    """

    created: str
    last_seq: int

    def still_has(self, earlier: StreamPosition) -> bool:
        """Return True if the stream may still have everything it had at *earlier*."""
        return self.created == earlier.created and self.last_seq >= earlier.last_seq


@runtime_checkable
class HasStreamPosition(Protocol):
    """A sink with a destination that can be checked for losses."""

    async def watermark(self) -> StreamPosition:
        """
        Return the end of the destination.

        Raises:
            SinkUnavailable: the destination cannot be asked now.

        """


# Each account has its own streams, so the stream may exist under other credentials.
_MAKE_IT: Final = "run `noetl-events stream ensure`, or use the credentials of the account that has it"
_NOT_FOUND: Final = 10059
_OFFLINE: Final = (10118, 10194)
_UNREADABLE: Final = 10025
_UNKNOWN_FIELD: Final = re.compile(r'unknown field "(\w+)"')
_REFUSED: Final = range(400, 500)
# The field to change, for errors about limits of an account, a server or another stream.
_FIELDS: Final = {
    10002: "max_bytes",
    10005: "num_replicas",
    10028: "max_bytes",
    10047: "max_bytes",
    10065: "subjects",
    10074: "num_replicas",
    10113: "max_bytes",
    10122: "max_bytes",
}
_INVALID: Final = 10052
_INVALID_FIELDS: Final = {"duplicates window": "duplicate_window", "max age": "max_age", "replicas": "num_replicas"}


class StreamState(msgspec.Struct, frozen=True):
    """
    The messages of a stream.

    Args:
        messages: number of messages.
        first_seq: sequence of the first message, or the one after the last if the stream is empty.
        last_seq: sequence of the last message that was ever stored.
        first_ts: time when the first message was stored, in the server's format.
        last_ts: time when the last message was stored, in the server's format.

    """

    messages: int = 0
    first_seq: int = 0
    last_seq: int = 0
    first_ts: str = ""
    last_ts: str = ""


class FoundStream(msgspec.Struct, frozen=True):
    """
    A stream as it is on the server.

    Args:
        config: configuration as the server's JSON.
        state: messages of the stream.
        created: creation time in the server's format.

    """

    config: dict[str, Any]
    state: StreamState = StreamState()
    created: str = ""


_found = msgspec.json.Decoder(FoundStream)


async def ensure_stream(connection: Connection, declared: StreamDeclaration, *, upgrade: bool = False) -> StreamInfo:
    """
    Return the stream as it is on the server, created if it was missing.

    Args:
        connection: connection to NATS; it is not closed here.
        declared: declaration of the stream.
        upgrade: True to enable capabilities that the server supports and the stream lacks.

    Raises:
        ServerTooOld: the server does not support partitions.
        StreamDrift: the stream exists and differs.
        StreamRefused: the server refuses to create or change the stream.
        NatsUnavailable: the server did not answer, or answered with an error.

    """
    if declared.partitions:
        # Without support for partitions, no consumer could read them.
        await require_version(connection, "partitions")
    try:
        if upgrade:
            await _upgrade(connection, declared)
        return await require_stream(connection, declared)
    except StreamMissing:
        await _create(connection, declared)
    return await require_stream(connection, declared)


async def require_stream(connection: Connection, declared: StreamDeclaration) -> StreamInfo:
    """
    Return the stream as it is on the server, if it is as declared; it may lack capabilities of its server.

    Raises:
        StreamDrift: the stream differs.
        StreamMissing: the stream does not exist.
        NatsUnavailable: the server did not answer, or answered with an error.

    """
    found = await examine_stream(connection, declared)
    if drift := [deviation for deviation in found if deviation.weight not in ("lacking", "told")]:
        raise StreamDrift(declared.name, drift)
    return await show_stream(connection, declared.name)


async def examine_stream(connection: Connection, declared: StreamDeclaration) -> list[Deviation]:
    """
    Return the differences between the stream and its declaration, the gravest first.

    Raises:
        StreamMissing: the stream does not exist.
        NatsUnavailable: the server did not answer, or answered with an error.

    """
    found = await find_stream(connection, declared.name)
    return deviations(declared, found.config, version=await server_version(connection))


async def find_stream(connection: Connection, name: str) -> FoundStream:
    """
    Return the stream as it is on the server.

    Raises:
        StreamMissing: the stream does not exist.
        NatsUnavailable: the server did not answer, or answered with an error.

    """
    return _found.decode(await _info(connection, name))


async def show_stream(connection: Connection, name: str) -> StreamInfo:
    """
    Return the stream as nats-py shows it, without the fields that nats-py does not know.

    Raises:
        StreamMissing: the stream does not exist.
        NatsUnavailable: the server did not answer, or answered with an error.

    """
    info: StreamInfo = StreamInfo.from_response(msgspec.json.decode(await _info(connection, name)))
    return info


async def _info(connection: Connection, name: str) -> bytes:
    data, error = await ask(connection, f"STREAM.INFO.{name}")
    if error is not None:
        raise explained(name, error)
    return data


async def _create(connection: Connection, declared: StreamDeclaration) -> None:
    config = stream_config(declared, await server_version(connection))
    while (error := await _send(connection, "CREATE", declared.name, config)) is not None:
        # The server that stores the stream may be older than the connected one, so drop fields it does not know.
        unknown = _UNKNOWN_FIELD.search(error.description) if error.err_code == _UNREADABLE else None
        if unknown is None or unknown[1] not in CAPABILITIES or config.pop(unknown[1], None) is None:
            raise explained(declared.name, error)


async def _upgrade(connection: Connection, declared: StreamDeclaration) -> None:
    """Enable the missing capabilities; all other fields stay as the server has them, unknown ones included."""
    found = await find_stream(connection, declared.name)
    wanted = deviations(declared, found.config, version=await server_version(connection))
    missing = {deviation.field: True for deviation in wanted if deviation.field in CAPABILITIES}
    if missing and (error := await _send(connection, "UPDATE", declared.name, found.config | missing)) is not None:
        raise explained(declared.name, error)


async def _send(connection: Connection, verb: str, name: str, config: dict[str, Any]) -> ReplyError | None:
    _, error = await ask(connection, f"STREAM.{verb}.{name}", msgspec.json.encode(config))
    return error


def explained(name: str, error: ReplyError) -> NatsUnavailable:
    """Return the error that the *error* of a request about the stream *name* means."""
    words = f"{error.description} ({error.err_code})"
    if error.err_code == _NOT_FOUND:
        return StreamMissing(missing(name))
    if error.err_code in _OFFLINE:
        return StreamRefused(
            name,
            f"{words}: the server has the stream and does not serve it; if a newer nats-server created it, run "
            "that version again",
        )
    if error.code in _REFUSED or error.err_code in (*_FIELDS, _INVALID):
        return StreamRefused(name, words, field=_field_of(error))
    return NatsUnavailable(f"stream {name}: {words}")


def _field_of(error: ReplyError) -> str:
    if error.err_code == _INVALID:
        return next((field for words, field in _INVALID_FIELDS.items() if words in error.description), "")
    return _FIELDS.get(error.err_code, "")


def missing(name: str) -> str:
    """Return the error text for a missing stream *name*."""
    return f"stream {name} does not exist; {_MAKE_IT}"


def untaken(subject: str) -> str:
    """Return the error text for a *subject* that no stream takes."""
    return f"no stream takes {subject}; {_MAKE_IT}"


def lacking(found: Sequence[Deviation]) -> list[Deviation]:
    """Return those of the deviations *found* that can be switched on."""
    return [deviation for deviation in found if deviation.weight == "lacking"]


async def watermark(connection: Connection, subject: str) -> StreamPosition:
    """
    Return the end of the stream that takes *subject*.

    Raises:
        StreamMissing: no stream takes the subject.
        NatsUnavailable: the server did not answer, or answered with an error.

    """
    js = await jetstream(connection)
    try:
        name = await js.find_stream_name_by_subject(subject)
    except NotFoundError as exc:
        raise StreamMissing(untaken(subject)) from exc
    except (NatsError, APIError) as exc:
        raise unavailable(connection, connection.api("STREAM.NAMES"), exc) from exc
    info = await show_stream(connection, name)
    return StreamPosition(str(info.created), info.state.last_seq)
