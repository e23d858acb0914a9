"""Settings from where they can be given: the command line wins over the environment, that over the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from consumers.settings.checking import Given, checked
from consumers.settings.environment import warn_of_misspelt
from consumers.settings.errors import SettingsError
from consumers.settings.file import read_file
from consumers.settings.secrets import read_secret, warn_of_readers
from consumers.settings.sections import Tables, declared_settings, section_kinds
from consumers.settings.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from consumers.settings.setting import Setting

DEFAULT: Final = "default"

_FILE: Final = "_file"
# Read here; the other secrets in files are read where they are used, so that a new one needs no restart.
_READ_NOW: Final = ("nats.servers", "projector.to")
_CHECKED_NOW: Final = ("nats.password", "nats.token")


class Loaded(NamedTuple):
    """
    Settings, and where they come from.

    Args:
        settings: for the process.
        tables: the same, by the keys of the file.
        origins: of each setting that somebody gave, by its key.
        labels: their places, by key.

    """

    settings: Settings
    tables: Tables
    origins: Mapping[str, str]
    labels: Mapping[str, str]

    def value(self, setting: Setting) -> Any:
        """Return the value of *setting*."""
        return getattr(getattr(self.tables, setting.section), setting.field)

    def label(self, key: str) -> str:
        """Return the place the setting *key* was given at, for an error."""
        return self.labels.get(key, key)

    def origin(self, setting: Setting) -> str:
        """Return who gave it: "command line", the name of a variable, the path of the file, or "default"."""
        return self.origins.get(setting.key, DEFAULT)


def load(environ: Mapping[str, str], *, config: Path | None = None, chosen: Mapping[str, Any] | None = None) -> Loaded:
    """
    Return the settings of *environ*, of the file *config* and of the command line, *chosen* by key.

    An empty variable counts as not set, a None in *chosen* too.

    Raises:
        SettingsError: one cannot be used; nothing secret is in the message.

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
            # What is said later replaces both ways to say it.
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
    """Return *reason*, which begins with keys or fields of `ConnectOptions`, with the places they were given at."""
    fields, _, rest = reason.partition(": ")
    keys = [field if "." in field else f"nats.{field}" for field in fields.split(", ")]
    variables = {setting.key: setting.environ for setting in declared_settings()}
    labels = [given[key].label if key in given else f"{key} ({variables[key]})" for key in keys]
    return f"{', '.join(labels)}: {rest}"
