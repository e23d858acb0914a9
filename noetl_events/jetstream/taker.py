"""Which stream takes a subject, as the API of JetStream says."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

import msgspec
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from noetl_events.jetstream.errors import NatsUnavailable, PermissionDenied
from noetl_events.jetstream.replies import ReplyError
from noetl_events.jetstream.topology import unavailable

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection

_TIMEOUT: Final = 2.0
# nats-py tells of a denial on the side only, and waits for an answer all the same.
_LOOK_ROUND: Final = 0.05
_STREAM_NOT_FOUND: Final = 10059


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
        PermissionDenied: the account may not ask, or no API answers it.
        NatsUnavailable: nothing is known: the server did not answer, as during an election, or said no.

    """
    names = await _ask(connection, "STREAM.NAMES", json.dumps({"subject": subject}).encode())
    if names.error is not None:
        raise NatsUnavailable(f"{connection.api('STREAM.NAMES')}: {names.error.description}")
    if not names.streams:
        return None
    name = names.streams[0]
    try:
        info = await _ask(connection, f"STREAM.INFO.{name}", b"")
    except PermissionDenied:
        return Taker(name)
    if info.error is None:
        return Taker(name, info.domain, info.config.no_ack)
    if info.error.err_code == _STREAM_NOT_FOUND:
        # Deleted in the meantime.
        return None
    raise NatsUnavailable(f"{connection.api(f'STREAM.INFO.{name}')}: {info.error.description}")


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
            return _answer.decode((await asked).data)
        except NoRespondersError as exc:
            raise PermissionDenied(f"no JetStream answers on {subject}") from exc
        except (NatsError, OSError) as exc:
            raise unavailable(connection, subject, exc) from exc
        except ValueError as exc:
            raise NatsUnavailable(f"{subject}: unreadable answer: {exc}") from exc
        finally:
            asked.cancel()
