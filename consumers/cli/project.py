"""`noetl-events project`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from consumers.cli.options import Nats, Partitions, read_settings
from consumers.daemon import run_until_signal
from consumers.health.listening import open_endpoint
from consumers.service import Service
from consumers.together import Together
from noetl_events.jetstream.connection import Connection


async def project(
    *,
    to: Annotated[
        list[str],
        Parameter(
            help="URL of a destination, as `sqlite:///events.db`; several get a consumer each.",
            negative=(),
        ),
    ],
    durable: Annotated[str, Parameter(help="Name of the durable consumer; replicas share one.")] = "noetl_projector",
    standby: Annotated[
        bool, Parameter(help="One replica works, in the order of the stream; the others wait.", negative=())
    ] = False,
    listen: Annotated[
        str | None,
        Parameter(help="Serve health and metrics on `HOST:PORT`, or `off`; `127.0.0.1:9464` if free.", negative=()),
    ] = None,
    partitions: Partitions = None,
    nats: Nats = None,
) -> int:
    """
    Carry the stream into destinations until SIGTERM or SIGINT, then settle what is in hand.

    While a destination or NATS is away it holds and tries again.  What a destination will never take is stored in the
    dead-letter stream.  Exit code 1 if something in hand could not be settled before the deadline: it is delivered
    again.

    On a stream that was created with partitions each execution is in order, and replicas share the lanes.

    `/healthz` says whether it lives, `/readyz` whether it stores what comes, `/metrics` has the numbers.

    Example: `noetl-events project --to sqlite:///events.db`
    """
    settings = read_settings(nats, partitions=partitions)
    async with Connection(settings.connect) as connection:
        service = Service(settings, connection, to, durable=durable, standby=standby)
        try:
            endpoint = open_endpoint(service, listen or settings.projector.listen)
            worker = Together([service.worker], beside=[endpoint.run] if endpoint else [])
            return await run_until_signal(worker, deadline=settings.projector.stop_deadline)
        finally:
            await service.aclose()
