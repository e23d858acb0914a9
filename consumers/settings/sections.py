"""
All settings there are: the tables of the file, and the list of what is in them.

The file, the environment, `noetl-events config` and the reference are made from it.  A new setting is a new field of a
struct in `nats.py` or `daemons.py`; a new table is a new field here.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import msgspec

from consumers.settings.daemons import (
    DaemonSettings,
    GatewaySettings,
    LogSettings,
    ProjectorSettings,
    PublishSettings,
)
from consumers.settings.nats import DeadLetterSettings, NatsSettings, StreamSettings, TrialSettings
from consumers.settings.setting import Setting, settings_of

if TYPE_CHECKING:
    from consumers.settings.section import Section


class Tables(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of noetl-events, as a file holds them."""

    nats: NatsSettings = NatsSettings()
    stream: StreamSettings = StreamSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    trials: TrialSettings = TrialSettings()
    publish: PublishSettings = PublishSettings()
    projector: ProjectorSettings = ProjectorSettings()
    gateway: GatewaySettings = GatewaySettings()
    daemon: DaemonSettings = DaemonSettings()
    log: LogSettings = LogSettings()


@cache
def section_kinds() -> dict[str, type[Section]]:
    """Return the struct of each section, by the name of its table."""
    return {field.name: field.type for field in msgspec.structs.fields(Tables)}


@cache
def declared_settings() -> tuple[Setting, ...]:
    """Return every setting there is, in the order of the file."""
    return tuple(found for name, kind in section_kinds().items() for found in settings_of(name, kind))
