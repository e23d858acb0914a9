"""Load the settings: the command line overrides the environment, which overrides the file."""

from __future__ import annotations

import math
from difflib import get_close_matches
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import structlog

from consumers.settings.declared import (
    DaemonSettings,
    GatewaySettings,
    LogSettings,
    ProjectorSettings,
    PublishSettings,
    Tables,
    declared_settings,
    section_kinds,
)
from consumers.settings.files import read_file, read_secret, warn_of_readers
from consumers.settings.setting import SettingsError
from noetl_events.jetstream.declarations import DAY, DEAD_LETTERS, DUPLICATE_WINDOW, TRIALS, StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from consumers.settings.declared import StreamSettings
    from consumers.settings.setting import Setting

CONFIG: Final = "NOETL_CONFIG"
"""Variable with the path of the settings file."""

_OURS: Final = ("NATS_", "NOETL_")
# A name this similar is a typing error; below that it belongs to another program.
_ALIKE: Final = 0.88

log = structlog.get_logger()


def warn_of_misspelt(environ: Mapping[str, str]) -> None:
    """
    Log a warning for each variable with a name that is almost a setting's.

    Not an error, because other parts of NoETL, and Kubernetes, use variables with these prefixes too.
    """
    known = [setting.environ for setting in declared_settings()] + [CONFIG]
    for name in environ:
        if name.startswith(_OURS) and name not in known and (close := get_close_matches(name, known, 1, _ALIKE)):
            log.warning("settings.unknown_variable", name=name, did_you_mean=close[0])


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a process."""

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
        """The declared streams: events, dead letters, crash records."""
        return self.stream, self.dead_letters, self.trials

    @classmethod
    def of(cls, tables: Tables) -> Settings:
        """
        Return the settings in *tables*.

        Raises:
            ValueError: valid settings contradict each other; the message begins with their keys, or with field names
                for those of `nats`.

        """
        nats = {name: value for name, value in msgspec.structs.asdict(tables.nats).items() if value}
        nats.pop("servers_file", None)
        _require_streams(tables)
        return cls(
            connect=ConnectOptions(**nats),
            stream=_events(tables.stream),
            dead_letters=_beside(tables.stream, DEAD_LETTERS, **msgspec.structs.asdict(tables.dead_letters)),
            trials=_beside(
                tables.stream,
                TRIALS,
                **msgspec.structs.asdict(tables.trials),
                max_age=_crash_records_age(tables.stream),
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
    """Return a stream with as many replicas as *events*, because projectors block while this stream is unavailable."""
    declared = msgspec.structs.replace(
        base,
        subjects=(f"{subject}.>",),
        replicas=events.replicas,
        # An account that limits the duplicate window limits it for all streams.
        duplicate_window=min(DUPLICATE_WINDOW, events.duplicate_window),
        **fields,
    )
    if declared.max_age and declared.duplicate_window > declared.max_age:
        declared = msgspec.structs.replace(declared, duplicate_window=declared.max_age)
    return declared


def _crash_records_age(events: StreamSettings) -> float:
    """Return the retention time of crash records: that of the events, and at least a day."""
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


_FIRST_PRINTABLE: Final = " "
_DELETE: Final = "\x7f"


class Given(NamedTuple):
    """
    A value with its origin.

    Args:
        value: value of any type.
        origin: origin of the value, in one word for `config show`.
        label: origin of the value, for an error.
        is_text: whether the value was given as text, whatever its type.

    """

    value: Any
    origin: str
    label: str
    is_text: bool = False


def checked(setting: Setting, given: Given) -> Any:
    """
    Return the value of *setting* that was *given*.

    Raises:
        SettingsError: the value is invalid; the message quotes it, unless it is a secret.

    """
    try:
        value = _converted(setting, _split(setting, given), strict=not given.is_text)
    except ValueError as exc:
        raise SettingsError(f"{given.label}: {setting.shown(given.value)}: {exc}; {setting.remedy}") from None
    if reason := _flaw(value, setting.gap):
        raise SettingsError(f"{given.label}: {setting.shown(given.value)}: {reason}; {setting.remedy}")
    if setting.is_file and value:
        warn_of_readers(given.label, value)
    return value


def _split(setting: Setting, given: Given) -> Any:
    if not given.is_text:
        return given.value
    if setting.is_list:
        return given.value.split()
    return given.value.lower() if setting.is_choice else given.value


def _converted(setting: Setting, value: Any, *, strict: bool) -> Any:
    kind = section_kinds()[setting.section]
    try:
        return getattr(msgspec.convert({setting.field: value}, kind, strict=strict), setting.field)
    except msgspec.ValidationError as exc:
        # For a choice msgspec's error quotes the given value, which may be a misplaced secret, so it is not shown.
        reason = str(exc).partition(" - at")[0]
        raise ValueError("not allowed" if setting.is_choice or "regex" in reason else reason) from None


def _flaw(value: Any, gap: tuple[float, float] | None) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "not finite"
    if gap and gap[0] < value < gap[1]:
        return "no NATS server accepts it"
    texts = [part for part in (value if isinstance(value, tuple) else [value]) if isinstance(part, str)]
    if any("\ud800" <= sign <= "\udfff" for text in texts for sign in text):
        return "not UTF-8"
    if any(sign < _FIRST_PRINTABLE or sign == _DELETE for text in texts for sign in text):
        return "contains a control character"
    return ""


DEFAULT: Final = "default"

_FILE: Final = "_file"
# These files are read now; those of other secrets at each use, so a new secret needs no restart.
_READ_NOW: Final = ("nats.servers", "projector.to")
_CHECKED_NOW: Final = ("nats.password", "nats.token")


class Loaded(NamedTuple):
    """
    The settings with their origins.

    Args:
        settings: settings of the process.
        tables: the same settings, by the keys of the file.
        origins: origins of the settings that were given, by key.
        labels: origins of these settings for an error, by key.

    """

    settings: Settings
    tables: Tables
    origins: Mapping[str, str]
    labels: Mapping[str, str]

    def value(self, setting: Setting) -> Any:
        """Return the value of *setting*."""
        return getattr(getattr(self.tables, setting.section), setting.field)

    def label(self, key: str) -> str:
        """Return the origin of the setting *key*, for an error."""
        return self.labels.get(key, key)

    def origin(self, setting: Setting) -> str:
        """Return the origin: "command line", the name of a variable, the path of the file, or "default"."""
        return self.origins.get(setting.key, DEFAULT)


def load(environ: Mapping[str, str], *, config: Path | None = None, chosen: Mapping[str, Any] | None = None) -> Loaded:
    """
    Return the settings of the file *config*, of *environ*, and of the command line, *chosen* by key.

    An empty variable and a None in *chosen* count as not set.

    Raises:
        SettingsError: a setting is invalid; the message contains no secret.

    """
    warn_of_misspelt(environ)
    given = _merged(
        [_in_file(config), _in_environ(environ), _on_command_line({} if chosen is None else chosen)],
    )
    values = {setting.key: checked(setting, given[setting.key]) for setting in _given_ones(given)}
    values |= dict(_in_secret_files(values, given))
    tables = _tables(values)
    try:
        settings = Settings.of(tables)
    except ValueError as exc:
        raise SettingsError(_relabelled(str(exc), given)) from None
    origins = {key: one.origin for key, one in given.items()}
    return Loaded(settings, tables, origins, {key: one.label for key, one in given.items()})


def _in_file(config: Path | None) -> dict[str, Given]:
    values = {} if config is None else read_file(config)
    if any(setting.secrecy == "secret" and values.get(setting.key) for setting in declared_settings()):
        warn_of_readers("config", str(config))
    return {key: Given(value, str(config), f"{config}: {key}") for key, value in values.items()}


def _in_environ(environ: Mapping[str, str]) -> dict[str, Given]:
    return {
        setting.key: Given(text, setting.environ, setting.environ, is_text=True)
        for setting in declared_settings()
        if (text := environ.get(setting.environ))
    }


def _on_command_line(chosen: Mapping[str, Any]) -> dict[str, Given]:
    return {
        key: Given(value, "command line", f"command line: {key}") for key, value in chosen.items() if value is not None
    }


def _merged(layers: list[dict[str, Given]]) -> dict[str, Given]:
    merged: dict[str, Given] = {}
    for layer in layers:
        for key, one in layer.items():
            if other := layer.get(key + _FILE):
                raise SettingsError(f"{one.label}, {other.label}: both are set; give one of them")
            # A later layer replaces both the value and the file with it.
            merged.pop(key.removesuffix(_FILE) if key.endswith(_FILE) else key + _FILE, None)
        merged |= layer
    return merged


def _given_ones(given: Mapping[str, Given]) -> Iterator[Setting]:
    return (setting for setting in declared_settings() if setting.key in given)


def _in_secret_files(values: Mapping[str, Any], given: dict[str, Given]) -> Iterator[tuple[str, Any]]:
    for setting in declared_settings():
        path = values.get(setting.key + _FILE)
        if not path or setting.key not in _READ_NOW + _CHECKED_NOW:
            continue
        source = given[setting.key + _FILE]
        text = read_secret(source.label, path)
        found = Given(text, source.origin, f"{source.label}: {path}", is_text=True)
        value = checked(setting, found)
        if setting.key in _READ_NOW:
            given[setting.key] = found
            yield setting.key, value


def _tables(values: Mapping[str, Any]) -> Tables:
    sections: dict[str, dict[str, Any]] = {name: {} for name in section_kinds()}
    for key, value in values.items():
        section, _, field = key.partition(".")
        sections[section][field] = value
    return msgspec.convert(sections, Tables)


def _relabelled(reason: str, given: Mapping[str, Given]) -> str:
    """Return *reason*, which begins with keys or fields of `ConnectOptions`, with their origins instead."""
    fields, _, rest = reason.partition(": ")
    keys = [field if "." in field else f"nats.{field}" for field in fields.split(", ")]
    variables = {setting.key: setting.environ for setting in declared_settings()}
    labels = [given[key].label if key in given else f"{key} ({variables[key]})" for key in keys]
    return f"{', '.join(labels)}: {rest}"
