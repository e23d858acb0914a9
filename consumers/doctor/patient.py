"""What is examined."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from consumers.permissions import Role, Work
    from consumers.settings import Settings
    from noetl_events.jetstream.connection import Connection


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
