"""What a process works with, made of what was set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from consumers.settings.daemons import DaemonSettings, GatewaySettings, LogSettings, ProjectorSettings
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.topology import StreamDeclaration

if TYPE_CHECKING:
    from consumers.settings.sections import Tables


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set."""

    connect: ConnectOptions
    stream: StreamDeclaration
    projector: ProjectorSettings
    gateway: GatewaySettings = GatewaySettings()
    daemon: DaemonSettings = DaemonSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def of(cls, tables: Tables) -> Settings:
        """
        Return what *tables* say.

        Raises:
            ValueError: settings that are right alone do not go together; begins with the names of their fields.

        """
        nats = {name: value for name, value in msgspec.structs.asdict(tables.nats).items() if value}
        nats.pop("servers_file", None)
        return cls(
            connect=ConnectOptions(**nats),
            stream=StreamDeclaration(**msgspec.structs.asdict(tables.stream)),
            projector=tables.projector,
            gateway=tables.gateway,
            daemon=tables.daemon,
            log=tables.log,
        )
