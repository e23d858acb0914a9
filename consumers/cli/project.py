"""The command `noetl-events project`."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import structlog
from cyclopts import Parameter

from consumers.cli.options import Nats, Partitions, live_settings, open_labelled
from consumers.daemon import ignore_hangup, run_until_signal
from consumers.http import open_endpoint
from consumers.projector.service import Service
from consumers.tasks import Supervisor
from consumers.tracing import exported_traces
from noetl_events.jetstream.connect.servers import redacted
from noetl_events.jetstream.connection import Connection

log = structlog.get_logger()


async def project(
    *,
    to: Annotated[
        list[str] | None,
        Parameter(
            help="URL of a destination, such as `sqlite:///events.db`; each gets a consumer of its own.",
            negative=(),
        ),
    ] = None,
    durable: Annotated[
        str | None,
        Parameter(help="Name of the durable consumer, `noetl_projector` by default; replicas share one.", negative=()),
    ] = None,
    standby: Annotated[
        bool | None, Parameter(help="One replica works, in the order of the stream; the rest are on standby.")
    ] = None,
    listen: Annotated[
        str | None,
        Parameter(
            help="Serve health checks and metrics on `HOST:PORT`, or `off`; `127.0.0.1:9464` if free.", negative=()
        ),
    ] = None,
    partitions: Partitions = None,
    nats: Nats = None,
) -> int:
    """
    Copy the stream into destinations until SIGTERM or SIGINT, then finish the messages in flight.

    While a destination or NATS is unavailable, the projector holds and retries.  Events that a destination rejects
    permanently are stored in the dead-letter stream.  Exit code 1 if messages in flight could not be acknowledged
    before the deadline: they are redelivered.

    On a stream with partitions each execution is in order, and replicas share the partitions.

    SIGHUP reloads the settings, and applies the reloadable ones.

    `/healthz` reports liveness, `/readyz` readiness, `/metrics` has the metrics.

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
                worker = Supervisor([service.worker], background=[endpoint.run] if endpoint else [])
                return await run_until_signal(
                    worker, deadline=lambda: live.current.daemon.stop_deadline, on_hangup=live.reload
                )
            finally:
                await service.aclose()
