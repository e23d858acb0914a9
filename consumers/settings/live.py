"""The settings of a running daemon, read again when it is told to."""

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
    The settings of a daemon: of what is declared reloadable, the newest; of everything else, what it started with.

    Args:
        load: reads the settings anew.

    Raises:
        SettingsError: they cannot be used.

    """

    def __init__(self, load: Callable[[], Loaded]) -> None:
        self._load = load
        self._loaded = load()
        self._followers: list[Callable[[Settings], None]] = []

    @property
    def current(self) -> Settings:
        """What holds now."""
        return self._loaded.settings

    def label(self, key: str) -> str:
        """Return the place the setting *key* was given at, for an error."""
        return self._loaded.label(key)

    def follow(self, callback: Callable[[Settings], None]) -> None:
        """Have *callback* called with the settings after each reload that changed one."""
        self._followers.append(callback)

    def reload(self) -> None:
        """
        Read the settings again and take over what can be taken over; never raises.

        Settings that cannot be used change nothing, and are logged as an error.  Changed settings that want a restart
        are named in a warning, and stay as they were.
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
        # The line first: the new level may hide it.
        self._take(fresh, taken)

    def _take(self, fresh: Loaded, taken: list[Setting]) -> None:
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
