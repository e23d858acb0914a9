"""`noetl-events project`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from consumers.cli.options import Nats, read_settings
from consumers.daemon import run_until_signal
from consumers.dead_letters import DeadLetters
from consumers.projector import Projector
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.puller import Puller
from noetl_events.jetstream.topology import ConsumerDeclaration
from noetl_events.sink import open_sink


async def project(
    *,
    to: Annotated[str, Parameter(help="URL of the destination, as `postgresql://host/db` or `sqlite:///events.db`.")],
    durable: Annotated[str, Parameter(help="Name of the durable consumer; replicas share one.")] = "noetl_projector",
    nats: Nats = None,
) -> int:
    """
    Carry the stream into a destination until SIGTERM or SIGINT, then settle what is in hand.

    While the destination or NATS is away it holds and tries again.  What the destination will never take is stored
    in the dead-letter stream.  Exit code 1 if something in hand could not be settled before the deadline: it is
    delivered again.

    Example: `noetl-events project --to sqlite:///events.db`
    """
    settings = read_settings(nats)
    sink = open_sink(to)
    consumer = ConsumerDeclaration(name=durable, stream=settings.stream.name, ack_wait=settings.projector.ack_wait)
    async with Connection(settings.connect) as connection:
        projector = Projector(
            Puller(connection, consumer),
            sink,
            DeadLetters(connection),
            batch_size=settings.projector.batch_size,
        )
        try:
            return await run_until_signal(projector, deadline=settings.projector.stop_deadline)
        finally:
            await sink.aclose()
