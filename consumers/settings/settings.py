"""What a process works with, made of what was set."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import msgspec

from consumers.settings.daemons import (
    DaemonSettings,
    GatewaySettings,
    LogSettings,
    ProjectorSettings,
    PublishSettings,
)
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.topology import (
    DAY,
    DEAD_LETTERS,
    DUPLICATE_WINDOW,
    TRIALS,
    StreamDeclaration,
)

if TYPE_CHECKING:
    from consumers.settings.nats import StreamSettings
    from consumers.settings.sections import Tables


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set."""

    connect: ConnectOptions
    stream: StreamDeclaration
    dead_letters: StreamDeclaration = DEAD_LETTERS
    trials: StreamDeclaration = TRIALS
    publish: PublishSettings = PublishSettings()
    projector: ProjectorSettings
    gateway: GatewaySettings = GatewaySettings()
    daemon: DaemonSettings = DaemonSettings()
    log: LogSettings = LogSettings()

    @property
    def streams(self) -> tuple[StreamDeclaration, StreamDeclaration, StreamDeclaration]:
        """The streams there shall be."""
        return self.stream, self.dead_letters, self.trials

    @classmethod
    def of(cls, tables: Tables) -> Settings:
        """
        Return what *tables* say.

        Raises:
            ValueError: settings that are right alone do not go together; begins with their keys, or for those of
                `nats` with the names of their fields.

        """
        nats = {name: value for name, value in msgspec.structs.asdict(tables.nats).items() if value}
        nats.pop("servers_file", None)
        _require_streams(tables)
        return cls(
            connect=ConnectOptions(**nats),
            stream=_events(tables.stream),
            dead_letters=_beside(tables.stream, DEAD_LETTERS, **msgspec.structs.asdict(tables.dead_letters)),
            trials=_beside(
                tables.stream, TRIALS, **msgspec.structs.asdict(tables.trials), max_age=_notes_age(tables.stream)
            ),
            publish=tables.publish,
            projector=tables.projector,
            gateway=tables.gateway,
            daemon=tables.daemon,
            log=tables.log,
        )


def _events(given: StreamSettings) -> StreamDeclaration:
    fields = msgspec.structs.asdict(given)
    return StreamDeclaration(subjects=(f"{fields.pop('subject')}.>",), **fields)


def _beside(events: StreamSettings, base: StreamDeclaration, *, subject: str, **fields: object) -> StreamDeclaration:
    """Return a stream beside that of the *events*: on as many servers, since a lost one of them holds projectors."""
    declared = msgspec.structs.replace(
        base,
        subjects=(f"{subject}.>",),
        replicas=events.replicas,
        # An account that caps the window of one stream caps that of all.
        duplicate_window=min(DUPLICATE_WINDOW, events.duplicate_window),
        **fields,
    )
    if declared.max_age and declared.duplicate_window > declared.max_age:
        declared = msgspec.structs.replace(declared, duplicate_window=declared.max_age)
    return declared


def _notes_age(events: StreamSettings) -> float:
    """Return for how long notes about events are kept: as long as these, and a day at least."""
    return max(events.max_age, DAY) if events.max_age else 0.0


def _require_streams(tables: Tables) -> None:
    stream = tables.stream
    if 0 < stream.max_age < stream.duplicate_window:
        raise ValueError(
            f"stream.max_age, stream.duplicate_window: a stream that keeps its events for {stream.max_age:g} s cannot "
            f"remember their ids for {stream.duplicate_window:g} s; give a window of at most that"
        )
    sections = ("stream", "dead_letters", "trials")
    for one, other in combinations(sections, 2):
        first, second = getattr(tables, one), getattr(tables, other)
        if first.name == second.name:
            raise ValueError(f"{one}.name, {other}.name: both are {first.name!r}; give each stream a name of its own")
        heads = f"{first.subject}.", f"{second.subject}."
        if heads[0].startswith(heads[1]) or heads[1].startswith(heads[0]):
            raise ValueError(
                f"{one}.subject, {other}.subject: {first.subject!r} and {second.subject!r} overlap, and NATS gives a "
                "subject to one stream; let neither begin with the other"
            )
