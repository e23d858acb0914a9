"""Requests to the JetStream API with the server's raw answers: a client library would drop unknown fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.errors import APIError, ServiceUnavailableError

from noetl_events.jetstream.errors import (
    JetStreamOff,
    JetStreamSilent,
    NatsUnavailable,
    PermissionDenied,
    ServerTooOld,
)
from noetl_events.jetstream.publish.replies import ReplyError

if TYPE_CHECKING:
    from nats.js import JetStreamContext

    from noetl_events.jetstream.connection import Connection

_TIMEOUT: Final = 5.0
# The two codes: JetStream is not enabled for the account, or on the server.
_SWITCHED_OFF: Final = (10039, 10076)
_NO_ANSWER: Final = (
    "JetStream does not answer: it is not enabled for the account of these credentials, or the server runs without it"
)


class _Answer(msgspec.Struct, frozen=True):
    error: ReplyError | None = None


_answer = msgspec.json.Decoder(_Answer)


async def ask(connection: Connection, request: str, body: bytes = b"") -> tuple[bytes, ReplyError | None]:
    """
    Return the answer to a *request* such as `STREAM.INFO.noetl_events`, and the error in it.

    Raises:
        JetStreamOff: JetStream is switched off.
        NatsUnavailable: the server did not answer, or the request is denied.

    """
    subject = connection.api(request)
    client = await connection.client()
    try:
        data = (await client.request(subject, body, timeout=_TIMEOUT)).data
        error = _answer.decode(data).error
    except (NatsError, OSError) as exc:
        raise unavailable(connection, subject, exc) from exc
    except ValueError as exc:
        raise NatsUnavailable(f"{subject}: unreadable answer: {exc}") from exc
    require_jetstream(error)
    return data, error


def require_jetstream(error: ReplyError | None) -> None:
    """Raise `JetStreamOff` if the *error* in an answer of the API means that JetStream is switched off."""
    if error is not None and error.err_code in _SWITCHED_OFF:
        raise JetStreamOff(_switched_off(error.description, error.err_code))


async def server_version(connection: Connection) -> tuple[int, int]:
    """Return the version of the connected server; raises `NatsUnavailable`."""
    version = (await connection.client()).connected_server_version
    return version.major, version.minor


async def require_version(connection: Connection, feature: str, *, since: tuple[int, int] = (2, 14)) -> None:
    """
    Check that the connected server has at least version *since*, which *feature* needs.

    Raises:
        ServerTooOld: the server is older.
        NatsUnavailable: no server accepted the connection.

    """
    version = (await connection.client()).connected_server_version
    if (version.major, version.minor) < since:
        needed, found = f"{since[0]}.{since[1]}", f"{version.major}.{version.minor}.{version.patch}"
        raise ServerTooOld(
            f"nats-server {needed} or newer is needed for {feature}, and this one is {found}: use a newer server, or "
            f"do without {feature}"
        )


async def jetstream(connection: Connection) -> JetStreamContext:
    """Return the JetStream context of the current client."""
    return await connection.jetstream()


def unavailable(connection: Connection, subject: str, exc: Exception) -> NatsUnavailable:
    """Return the error that a failed request on *subject* means; nats-py reports a denial only as a timeout."""
    if denial := connection.denial(subject):
        return PermissionDenied(denial)
    # nats-py raises a 503 without a code for a request without a responder.
    if isinstance(exc, NoRespondersError) or (isinstance(exc, ServiceUnavailableError) and exc.code is None):
        return JetStreamSilent(_no_jetstream(connection))
    if isinstance(exc, APIError) and exc.err_code in _SWITCHED_OFF:
        return JetStreamOff(_switched_off(exc.description or "", exc.err_code))
    return NatsUnavailable(f"{subject}: {str(exc) or type(exc).__name__}")


def _no_jetstream(connection: Connection) -> str:
    info = connection.info
    who = f"server {info.get('server_name', '')} ({info.get('version', '')})".replace(" ()", "")
    if info and not info.get("jetstream"):
        return f"{_NO_ANSWER}; {who} runs without JetStream: start it with `jetstream {{}}`, or use another server"
    return _NO_ANSWER


def _switched_off(description: str, code: int) -> str:
    return (
        f"JetStream is switched off for the account of these credentials: {description} ({code}); "
        "enable it there, or use the credentials of the account that has the streams"
    )
