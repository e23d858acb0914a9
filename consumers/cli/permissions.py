"""The command `noetl-events permissions`."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
from cyclopts import Parameter

from consumers.cli.options import AsJson, Partitions, live_settings
from consumers.permissions import Role, RoleContext, grants_of, render_config, rights_of
from consumers.permissions.render import SCHEMES


def permissions(
    role: Role,
    *,
    to: Annotated[
        tuple[str, ...], Parameter(help="URL of each destination of the projector, as given to it.", negative=())
    ] = (),
    durable: Annotated[str | None, Parameter(help="Name of the projector's durable consumer.", negative=())] = None,
    standby: Annotated[bool | None, Parameter(help="The projector runs with `--standby`.")] = None,
    spool: Annotated[bool, Parameter(help="The publisher has a spool.", negative=())] = False,
    sql: Annotated[bool, Parameter(help="Print the grants for each Postgres of `--to` instead.", negative=())] = False,
    partitions: Partitions = None,
    json: AsJson = False,
) -> int:
    """
    Print the permissions that a role needs, and no more: for nats-server to include, or with `--sql` for psql.

    Stream, subjects and inbox prefix are those of the settings.

    Example: `noetl-events permissions projector --to postgresql://projector@db/noetl > projector.conf`
    """
    settings = live_settings(
        partitions=partitions,
        projector__to=list(to) or None,
        projector__durable=durable,
        projector__standby=standby,
    ).current
    if sql:
        sys.stdout.write(_grants(role, tuple(settings.projector.to)))
        return 0
    work = RoleContext.of(settings, spool=spool)
    rights = rights_of(role, work)
    config = render_config(role, rights)
    sys.stdout.write(msgspec.json.encode(rights._asdict()).decode() + "\n" if json else config)
    return 0


def _grants(role: Role, to: tuple[str, ...]) -> str:
    urls = [url for url in to if url.partition(":")[0] in SCHEMES]
    if not urls:
        raise ValueError("--to: give the URL of the Postgres for --sql, as postgresql://user@host/database")
    return "".join(grants_of(role, url) for url in urls) or f"-- The {role} does not use Postgres.\n"
