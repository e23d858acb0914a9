"""Which stream takes a subject, as the API of JetStream says."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

import msgspec
from nats.errors import Error as NatsError

from noetl_events.jetstream.api import require_jetstream, unavailable
from noetl_events.jetstream.errors import JetStreamSilent, NatsUnavailable, PermissionDenied
from noetl_events.jetstream.replies import ReplyError
from noetl_events.jetstream.streams import explained

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection

_TIMEOUT: Final = 2.0
# nats-py tells of a denial on the side only, and waits for an answer all the same.
_LOOK_ROUND: Final = 0.05
_STREAM_NOT_FOUND: Final = 10059
# Of a newer server, with what this one does not know; a stream without a leader is offline too, under another code.
_UNSUPPORTED: Final = 10194


class Taker(msgspec.Struct, frozen=True):
    """
    A stream that takes a subject.

    Args:
        name: of the stream.
        domain: that it is in, "" where the server has none; None where the account may not ask.
        no_ack: whether it is set to store without acknowledging.

    """

    name: str
    domain: str | None = None
    no_ack: bool = False


class _Config(msgspec.Struct, frozen=True):
    no_ack: bool = False


class _Answer(msgspec.Struct, frozen=True):
    streams: list[str] | None = None
    config: _Config = _Config()
    domain: str = ""
    error: ReplyError | None = None


_answer = msgspec.json.Decoder(_Answer)


async def find_taker(connection: Connection, subject: str) -> Taker | None:
    """
    Return the stream that takes *subject*, or None if there is none; the leader of JetStream itself says so.

    Raises:
        PermissionDenied: the account may not ask.
        StreamRefused: the server has the stream, and will not serve it.
        JetStreamOff: it is switched off; `JetStreamSilent` if no API answers.
        NatsUnavailable: nothing is known: the server did not answer, as during an election, or said no.

    """
    names = await streams_of(connection, subject)
    if not names:
        return None
    name = names[0]
    try:
        info = await _ask(connection, f"STREAM.INFO.{name}", b"")
    except (PermissionDenied, JetStreamSilent):
        return Taker(name)
    if info.error is None:
        return Taker(name, info.domain, info.config.no_ack)
    if info.error.err_code == _STREAM_NOT_FOUND:
        # Deleted in the meantime.
        return None
    if info.error.err_code == _UNSUPPORTED:
        raise explained(name, info.error)
    raise NatsUnavailable(f"{connection.api(f'STREAM.INFO.{name}')}: {info.error.description}")


async def streams_of(connection: Connection, subject: str) -> list[str]:
    """Return the names of the streams that take *subject*; raises as `find_taker` does."""
    answer = await _ask(connection, "STREAM.NAMES", json.dumps({"subject": subject}).encode())
    if answer.error is not None:
        raise NatsUnavailable(f"{connection.api('STREAM.NAMES')}: {answer.error.description}")
    return answer.streams or []


async def _ask(connection: Connection, request: str, body: bytes) -> _Answer:
    subject = connection.api(request)
    client = await connection.client()
    with connection.tolerating(subject):
        asked = asyncio.ensure_future(client.request(subject, body, timeout=_TIMEOUT))
        try:
            while not asked.done():
                await asyncio.wait([asked], timeout=_LOOK_ROUND)
                if denial := connection.denial(subject):
                    raise PermissionDenied(denial)
            answer = _answer.decode((await asked).data)
        except (NatsError, OSError) as exc:
            raise unavailable(connection, subject, exc) from exc
        except ValueError as exc:
            raise NatsUnavailable(f"{subject}: unreadable answer: {exc}") from exc
        finally:
            asked.cancel()
    require_jetstream(answer.error)
    return answer
