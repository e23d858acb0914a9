"""The command `noetl-events doctor`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumers import logs
from consumers.cli.options import AsJson, Nats, Partitions, live_settings, read_duration
from consumers.doctor.check import CheckContext, Finding
from consumers.doctor.run import examine
from consumers.logs import escaped
from consumers.permissions import Role, RoleContext
from noetl_events.jetstream.connection import Connection

_STYLES: Final = {"ok": "green", "warning": "yellow", "fault": "bold red", "unknown": "dim"}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Process:
    """The process to diagnose."""

    role: Annotated[Role, Parameter(help="Role of the process to diagnose, with the credentials of the settings.")] = (
        "projector"
    )
    durable: Annotated[str | None, Parameter(help="Name of the durable consumer.", negative=())] = None
    standby: Annotated[bool | None, Parameter(help="The projector runs with `--standby`.")] = None
    spool: Annotated[bool, Parameter(help="The publisher has a spool.", negative=())] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Demands:
    """The requirements that doctor checks."""

    outage: Annotated[str, Parameter(help="Outage to survive, such as `30m`, `24h` or `3d`.")] = "24h"
    replay_window: Annotated[str, Parameter(help="Replay window of the publishers' spools.")] = "300s"


_PROJECTOR: Final = Process()
_DEFAULT: Final = Demands()


async def doctor(
    *,
    to: Annotated[
        tuple[str, ...], Parameter(help="URL of each destination, as given to the projector.", negative=())
    ] = (),
    monitor: Annotated[str, Parameter(help="URL of nats-server's monitoring, such as `http://127.0.0.1:8222`.")] = "",
    process: Process = _PROJECTOR,
    demands: Demands = _DEFAULT,
    partitions: Partitions = None,
    nats: Nats = None,
    json: AsJson = False,
) -> int:
    """
    Diagnose NATS, the destinations and this installation, and print each problem with its remedy; nothing is changed.

    Exit code 1 for a fault.  Warnings and failed checks are printed, and the exit code stays 0.

    Example: `noetl-events doctor --to postgresql://localhost/noetl --monitor http://127.0.0.1:8222`
    """
    settings = live_settings(
        nats=nats,
        partitions=partitions,
        projector__to=list(to) or None,
        projector__durable=process.durable,
        projector__standby=process.standby,
    ).current
    # The findings cover these log events with better texts, so the library's log is turned down.
    logs.configure("critical")
    async with Connection(settings.connect) as connection:
        context = CheckContext(
            settings=settings,
            connection=connection,
            role=process.role,
            work=RoleContext.of(settings, spool=process.spool),
            to=tuple(settings.projector.to),
            monitor=monitor,
            outage=read_duration("--outage", demands.outage),
            replay_window=read_duration("--replay-window", demands.replay_window),
        )
        findings = await examine(context)
    _print(findings, as_json=json)
    return int(any(finding.severity == "fault" for finding in findings))


def _print(findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(msgspec.json.encode(findings).decode() + "\n")
        return
    table = Table("check", "", "found", box=None, pad_edge=False)
    for finding in findings:
        words = escaped(finding.found) + (f"\n→ {escaped(finding.remedy)}" if finding.remedy else "")
        table.add_row(finding.check, Text(finding.severity, style=_STYLES[finding.severity]), Text(words))
    Console().print(table)
