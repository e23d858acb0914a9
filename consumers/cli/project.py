"""`noetl-events project`."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import structlog
from cyclopts import Parameter

from consumers.cli.options import Nats, Partitions, live_settings, open_labelled
from consumers.daemon import ignore_hangup, run_until_signal
from consumers.http import open_endpoint
from consumers.projector.service import Service
from consumers.tasks import Together
from consumers.tracing import exported_traces
from noetl_events.jetstream.connect.servers import redacted
from noetl_events.jetstream.connection import Connection

log = structlog.get_logger()


async def project(
    *,
    to: Annotated[
        list[str] | None,
        Parameter(
            help="URL of a destination, as `sqlite:///events.db`; several get a consumer each.",
            negative=(),
        ),
    ] = None,
    durable: Annotated[
        str | None,
        Parameter(help="Name of the durable consumer, `noetl_projector` by default; replicas share one.", negative=()),
    ] = None,
    standby: Annotated[
        bool | None, Parameter(help="One replica works, in the order of the stream; the others wait.")
    ] = None,
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

    SIGHUP reads the settings again, and takes over those that can change while it runs.

    `/healthz` says whether it lives, `/readyz` whether it stores what comes, `/metrics` has the numbers.

    Example: `noetl-events project --to sqlite:///events.db`
    """
    ignore_hangup()
    live = live_settings(
        nats=nats,
        partitions=partitions,
        projector__to=to,
        projector__durable=durable,
        projector__standby=standby,
        projector__listen=listen,
    )
    settings, projector = live.current, live.current.projector
    if not projector.to:
        raise ValueError("--to: no destination; give --to URL, NOETL_PROJECTOR_TO or projector.to in the settings file")
    with exported_traces("noetl-projector"):
        async with Connection(settings.connect) as connection:
            service = Service(
                settings,
                connection,
                projector.to,
                durable=projector.durable,
                standby=projector.standby,
                opener=partial(open_labelled, live.label("projector.to")),
            )
            live.follow(service.follow)
            try:
                endpoint = open_endpoint(service, projector.listen)
                log.info("projector.started", to=[redacted(url) for url in projector.to], durable=projector.durable)
                worker = Together([service.worker], beside=[endpoint.run] if endpoint else [])
                return await run_until_signal(
                    worker, deadline=lambda: live.current.daemon.stop_deadline, on_hangup=live.reload
                )
            finally:
                await service.aclose()
