"""What can be set, in one file and in the environment, read at the edge into one frozen value."""

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
