"""A check of the doctor: its context and its findings."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from consumers.permissions import Role, Work
    from consumers.settings import Settings
    from noetl_events.jetstream.connection import Connection

MAKE_STREAMS: Final = "noetl-events stream ensure; or set the credentials of the account that has the streams"
"""The remedy where a stream is missing: an account has streams of its own."""

Severity: TypeAlias = Literal["ok", "warning", "fault", "unknown"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """
    One thing that was looked at.

    Args:
        check: that looked.
        severity: "fault" if events may be lost or stand still, "unknown" if it could not be looked at.
        found: in words.
        remedy: a command, or a setting.

    """

    check: str
    severity: Severity
    found: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Patient:
    """
    A process, by its settings and options.

    Args:
        settings: of it.
        connection: to NATS, as this process connects; it stays open.
        role: of this process.
        work: that it does.
        to: URLs of its destinations.
        monitor: URL of nats-server's monitoring; empty if it is not known.
        outage: seconds that everything behind the stream may be away.
        replay_window: seconds for which a `SpoolSink` keeps what was acknowledged.
        clock: seconds of Unix.

    """

    settings: Settings
    connection: Connection
    role: Role
    work: Work
    to: tuple[str, ...] = ()
    monitor: str = ""
    outage: float = 86_400.0
    replay_window: float = 300.0
    clock: Callable[[], float] = time.time
