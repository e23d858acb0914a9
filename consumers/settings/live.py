"""The settings of a running daemon, which reloads them on a signal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog

from consumers.settings.declared import declared_settings
from consumers.settings.load import Settings
from consumers.settings.setting import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from consumers.settings.load import Loaded
    from consumers.settings.setting import Setting

log = structlog.get_logger()


class LiveSettings:
    """
    The settings of a daemon: the newest values of reloadable settings, the values at the start of all others.

    Args:
        load: function that reads the settings.

    Raises:
        SettingsError: a setting is invalid.

    """

    def __init__(self, load: Callable[[], Loaded]) -> None:
        self._load = load
        self._loaded = load()
        self._followers: list[Callable[[Settings], None]] = []

    @property
    def current(self) -> Settings:
        """The settings in effect."""
        return self._loaded.settings

    def label(self, key: str) -> str:
        """Return the origin of the setting *key*, for an error."""
        return self._loaded.label(key)

    def follow(self, callback: Callable[[Settings], None]) -> None:
        """Register *callback*, which receives the settings after each reload that changed one."""
        self._followers.append(callback)

    def reload(self) -> None:
        """
        Reload the settings and apply the reloadable ones; never raises.

        Invalid settings change nothing, and are logged as an error.  Changed settings that need a restart are named in
        a warning, and keep their values.
        """
        try:
            fresh = self._load()
        except SettingsError as exc:
            log.error("settings.refused", reason=str(exc), consequence="the settings stay as they were")
            return
        changed = [setting for setting in declared_settings() if fresh.value(setting) != self._loaded.value(setting)]
        if waiting := [setting.key for setting in changed if not setting.reloadable]:
            log.warning("settings.restart_needed", settings=waiting)
        taken = [setting for setting in changed if setting.reloadable]
        log.info("settings.reloaded", changed={setting.key: setting.shown(fresh.value(setting)) for setting in taken})
        # Logged before the change, because the new log level may suppress it.
        self._apply(fresh, taken)

    def _apply(self, fresh: Loaded, taken: list[Setting]) -> None:
        if not taken:
            return
        tables = self._loaded.tables
        for setting in taken:
            section = msgspec.structs.replace(getattr(tables, setting.section), **{setting.field: fresh.value(setting)})
            tables = msgspec.structs.replace(tables, **{setting.section: section})
        origins = {**self._loaded.origins, **{setting.key: fresh.origin(setting) for setting in taken}}
        self._loaded = self._loaded._replace(settings=Settings.of(tables), tables=tables, origins=origins)
        for callback in self._followers:
            callback(self.current)
