"""The command `noetl-events serve`."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from consumers.cli.options import Nats, Partitions, live_settings
from consumers.daemon import ignore_hangup, run_until_signal
from consumers.http import bound
from consumers.tracing import exported_traces
from noetl_events.jetstream.connection import Connection

if TYPE_CHECKING:
    import socket

    from consumers.gateway.auth import LocalOnly, TokenFile


async def serve(
    *,
    listen: Annotated[
        str | None, Parameter(help="Serve on `HOST:PORT`; `127.0.0.1:8080` by default.", negative=())
    ] = None,
    token_file: Annotated[
        Path | None, Parameter(help="File of tokens, one per line; required unless bound to loopback.", negative=())
    ] = None,
    partitions: Partitions = None,
    nats: Nats = None,
) -> int:
    """
    Receive events over HTTP and stream them to HTTP clients, until SIGTERM or SIGINT.

    `POST /api/events` answers once the event is stored.  `GET /api/events/stream` is a stream of server-sent events
    that clients can resume.  `/openapi.json` describes the whole API.

    Example: `noetl-events serve --listen 0.0.0.0:8080 --token-file /run/secrets/token`
    """
    from consumers.gateway.app import Gateway

    ignore_hangup()
    live = live_settings(
        nats=nats,
        partitions=partitions,
        gateway__listen=listen,
        gateway__token_file=str(token_file) if token_file else None,
    )
    settings = live.current
    listener = bound(settings.gateway.listen)
    try:
        rule = _rule(listener, settings.gateway.token_file)
        with exported_traces("noetl-gateway"):
            async with Connection(settings.connect) as connection:
                gateway = Gateway(settings, connection, listener, rule)
                return await run_until_signal(
                    gateway, deadline=lambda: live.current.daemon.stop_deadline, on_hangup=live.reload
                )
    finally:
        listener.close()


def _rule(listener: socket.socket, token_file: str) -> TokenFile | LocalOnly:
    from consumers.gateway.auth import LocalOnly, TokenFile

    if token_file:
        return TokenFile(Path(token_file))
    host = listener.getsockname()[0]
    if not ip_address(host).is_loopback:
        raise ValueError(
            f"--token-file, gateway.token_file: required to listen on {host}, which other machines reach; "
            "or listen on loopback"
        )
    return LocalOnly()
