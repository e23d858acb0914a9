"""Store a single message, or look one up, for callers that have no stream of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nats.errors import Error as NatsError
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from noetl_events.jetstream.errors import MessageTooLarge, NatsUnavailable, StreamMissing
from noetl_events.jetstream.topology import jetstream, unavailable

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection


async def store(connection: Connection, subject: str, payload: bytes, headers: dict[str, str]) -> int:
    """
    Return the stream sequence of the message, once it is stored; give it a `Nats-Msg-Id` and trying again is safe.

    Raises:
        StreamMissing: no stream takes *subject*.
        MessageTooLarge: it exceeds what the server takes.
        NatsUnavailable: whether it is stored is unknown.

    """
    js = await jetstream(connection)
    _require_room((await connection.client()).max_payload, payload, headers)
    try:
        ack = await js.publish(subject, payload, headers=headers)
    except NoStreamResponseError as exc:
        raise StreamMissing(f"no stream takes {subject}; run `noetl-events stream ensure`") from exc
    except (NatsError, APIError) as exc:
        raise unavailable(connection, subject, exc) from exc
    except OSError as exc:
        raise NatsUnavailable(f"{subject}: {exc}") from exc
    if not ack.seq:
        raise NatsUnavailable(f"{subject}: its id is under way and not stored yet; try again")
    return ack.seq


async def last_payload(connection: Connection, stream: str, subject: str) -> bytes | None:
    """
    Return the payload of the last message of *subject* in *stream*, or None if there is none.

    Raises:
        NatsUnavailable: the server did not answer, or said no.

    """
    js = await jetstream(connection)
    try:
        return (await js.get_last_msg(stream, subject, direct=True)).data or b""
    except NotFoundError:
        return None
    except (NatsError, APIError) as exc:
        raise unavailable(connection, connection.api(f"DIRECT.GET.{stream}.{subject}"), exc) from exc


def _require_room(room: int, payload: bytes, headers: dict[str, str]) -> None:
    # The server closes the connection over a message that is too large, and nats-py looks at the payload alone.
    size = (
        len(payload) + len("NATS/1.0\r\n\r\n") + sum(len(f"{name}: {headers[name]}\r\n".encode()) for name in headers)
    )
    if size > room:
        raise MessageTooLarge(
            f"{size:,} bytes with headers exceed the server's max_payload of {room:,}; raise it there"
        )
