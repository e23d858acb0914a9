"""
Streams as declared: created when missing, refused when different, never silently changed.

A `Watermark` is the creation time of a stream and its last sequence.  Two of them tell whether the stream has kept what
it had acknowledged.
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
    "HasWatermark",
    "StreamInfo",
    "StreamState",
    "Watermark",
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


class Watermark(msgspec.Struct, frozen=True):
    """
    How far a stream has come.

    Args:
        created: when it was created, in the server's words: another stream of the same name has another.
        last_seq: of its youngest message; a server never counts it down, unless its disk lost messages.

    """

    created: str
    last_seq: int

    def has_kept(self, earlier: Watermark) -> bool:
        """Whether a stream that stood at *earlier* and stands here now may still have all it had then."""
        return self.created == earlier.created and self.last_seq >= earlier.last_seq


@runtime_checkable
class HasWatermark(Protocol):
    """A sink whose destination can be watched for losses."""

    async def watermark(self) -> Watermark:
        """
        Return how far the destination has come.

        Raises:
            SinkUnavailable: it cannot be asked now.

        """


# An account has streams of its own: under other credentials the stream may be there.
_MAKE_IT: Final = "run `noetl-events stream ensure`, or use the credentials of the account that has it"
_NOT_FOUND: Final = 10059
_OFFLINE: Final = (10118, 10194)
_UNREADABLE: Final = 10025
_UNKNOWN_FIELD: Final = re.compile(r'unknown field "(\w+)"')
_REFUSED: Final = range(400, 500)
# Refused for what an account, a server or another stream allows: which field is to be changed.
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
    What a stream holds.

    Args:
        messages: in it.
        first_seq: sequence of the first one, or behind the last one if there is none.
        last_seq: sequence of the last one there ever was.
        first_ts: when the first one was stored, as the server writes it.
        last_ts: when the last one was.

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
        config: of it, in the words of the server.
        state: of it.
        created: when it was, as the server writes it.

    """

    config: dict[str, Any]
    state: StreamState = StreamState()
    created: str = ""


_found = msgspec.json.Decoder(FoundStream)


async def ensure_stream(connection: Connection, declared: StreamDeclaration, *, upgrade: bool = False) -> StreamInfo:
    """
    Return the stream as it is on the server, created if it was missing.

    Args:
        connection: to NATS; it stays open.
        declared: the stream.
        upgrade: switch on what its server can do, and the stream was made without.

    Raises:
        ServerTooOld: the server is too old for its partitions.
        StreamDrift: it exists and differs.
        StreamRefused: the server does not make or change it.
        NatsUnavailable: the server did not answer, or said no.

    """
    if declared.partitions:
        # None of its lanes could be read.
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
    Return the stream as it is on the server, which is as declared, but for what its server could do besides.

    Raises:
        StreamDrift: it differs.
        StreamMissing: there is none of this name.
        NatsUnavailable: the server did not answer, or said no.

    """
    found = await examine_stream(connection, declared)
    if drift := [deviation for deviation in found if deviation.weight not in ("lacking", "told")]:
        raise StreamDrift(declared.name, drift)
    return await show_stream(connection, declared.name)


async def examine_stream(connection: Connection, declared: StreamDeclaration) -> list[Deviation]:
    """
    Return what of the stream is not as declared, the gravest first.

    Raises:
        StreamMissing: there is none of this name.
        NatsUnavailable: the server did not answer, or said no.

    """
    found = await find_stream(connection, declared.name)
    return deviations(declared, found.config, version=await server_version(connection))


async def find_stream(connection: Connection, name: str) -> FoundStream:
    """
    Return the stream as it is on the server.

    Raises:
        StreamMissing: there is none of this name.
        NatsUnavailable: the server did not answer, or said no.

    """
    return _found.decode(await _info(connection, name))


async def show_stream(connection: Connection, name: str) -> StreamInfo:
    """
    Return the stream as a client library shows it: without the fields that it does not know.

    Raises:
        StreamMissing: there is none of this name.
        NatsUnavailable: the server did not answer, or said no.

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
        # The server that keeps the stream is not always the one we are connected to.
        unknown = _UNKNOWN_FIELD.search(error.description) if error.err_code == _UNREADABLE else None
        if unknown is None or unknown[1] not in CAPABILITIES or config.pop(unknown[1], None) is None:
            raise explained(declared.name, error)


async def _upgrade(connection: Connection, declared: StreamDeclaration) -> None:
    """Switch on what the stream lacks; every other field stays as the server has it, known to us or not."""
    found = await find_stream(connection, declared.name)
    wanted = deviations(declared, found.config, version=await server_version(connection))
    missing = {deviation.field: True for deviation in wanted if deviation.field in CAPABILITIES}
    if missing and (error := await _send(connection, "UPDATE", declared.name, found.config | missing)) is not None:
        raise explained(declared.name, error)


async def _send(connection: Connection, verb: str, name: str, config: dict[str, Any]) -> ReplyError | None:
    _, error = await ask(connection, f"STREAM.{verb}.{name}", msgspec.json.encode(config))
    return error


def explained(name: str, error: ReplyError) -> NatsUnavailable:
    """Return what the *error* of a request about the stream *name* means."""
    words = f"{error.description} ({error.err_code})"
    if error.err_code == _NOT_FOUND:
        return StreamMissing(missing(name))
    if error.err_code in _OFFLINE:
        return StreamRefused(
            name,
            f"{words}: the server has it and does not serve it; a stream that a newer nats-server made needs that "
            "version again",
        )
    if error.code in _REFUSED or error.err_code in (*_FIELDS, _INVALID):
        return StreamRefused(name, words, field=_field_of(error))
    return NatsUnavailable(f"stream {name}: {words}")


def _field_of(error: ReplyError) -> str:
    if error.err_code == _INVALID:
        return next((field for words, field in _INVALID_FIELDS.items() if words in error.description), "")
    return _FIELDS.get(error.err_code, "")


def missing(name: str) -> str:
    """Return what to say where there is no stream of this *name*."""
    return f"stream {name} does not exist; {_MAKE_IT}"


def untaken(subject: str) -> str:
    """Return what to say where no stream takes *subject*."""
    return f"no stream takes {subject}; {_MAKE_IT}"


def lacking(found: Sequence[Deviation]) -> list[Deviation]:
    """Return those of what was *found* that can be switched on."""
    return [deviation for deviation in found if deviation.weight == "lacking"]


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
