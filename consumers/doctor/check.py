"""The context and the findings of a check."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from consumers.permissions import Role, RoleContext
    from consumers.settings import Settings
    from noetl_events.jetstream.connection import Connection

MAKE_STREAMS: Final = "noetl-events stream ensure; or set the credentials of the account that has the streams"
"""The remedy for a missing stream; each account has its own streams, so the credentials may be the cause."""

Severity: TypeAlias = Literal["ok", "warning", "fault", "unknown"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """
    The result of a check.

    Args:
        check: name of the check.
        severity: "fault" if events may be lost or delayed, "unknown" if the check failed.
        found: finding in words.
        remedy: command, or setting to change.

    """

    check: str
    severity: Severity
    found: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class CheckContext:
    """
    The context of the checks: a process, described by its settings and options.

    Args:
        settings: settings of the process.
        connection: connection to NATS with the options of the process; the caller closes it.
        role: role of the process.
        work: streams, consumers and subjects of the process.
        to: URLs of the destinations.
        monitor: URL of nats-server's monitoring; empty if unknown.
        outage: longest outage of the projectors and destinations to survive, in seconds.
        replay_window: time for which a `SpoolSink` keeps acknowledged events, in seconds.
        clock: function that returns the Unix time in seconds.

    """

    settings: Settings
    connection: Connection
    role: Role
    work: RoleContext
    to: tuple[str, ...] = ()
    monitor: str = ""
    outage: float = 86_400.0
    replay_window: float = 300.0
    clock: Callable[[], float] = time.time
