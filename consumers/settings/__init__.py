"""The settings: declared once, and loaded from the command line, the environment and a file into a frozen struct."""

from consumers.settings.declared import (
    DaemonSettings,
    GatewaySettings,
    LogSettings,
    NatsSettings,
    ProjectorSettings,
    StreamSettings,
    Tables,
    declared_settings,
    setting_of,
)
from consumers.settings.live import LiveSettings
from consumers.settings.load import CONFIG, Loaded, Settings, load
from consumers.settings.setting import Setting, SettingsError

__all__ = [
    "CONFIG",
    "DaemonSettings",
    "GatewaySettings",
    "LiveSettings",
    "Loaded",
    "LogSettings",
    "NatsSettings",
    "ProjectorSettings",
    "Setting",
    "Settings",
    "SettingsError",
    "StreamSettings",
    "Tables",
    "declared_settings",
    "load",
    "setting_of",
]
