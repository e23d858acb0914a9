"""The durable consumers of a stream, as they are now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from noetl_events.jetstream.topology import jetstream, unavailable

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """
    How far a durable consumer has come.

    Args:
        name: of it.
        pending: messages it has not delivered yet.
        ack_pending: messages it has delivered, and nobody has acknowledged.

    """

    name: str
    pending: int
    ack_pending: int


async def durable_consumers(connection: Connection, stream: str) -> list[Reading]:
    """
    Return the durable consumers of *stream*, by name: the first 256 the server lists.

    Raises:
        NatsUnavailable: the server did not answer, or said no.

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
