"""What can be set, in one file and in the environment, read at the edge into one frozen value."""

from consumers.settings.daemons import DaemonSettings, GatewaySettings, LogSettings, ProjectorSettings
from consumers.settings.environment import CONFIG
from consumers.settings.errors import SettingsError
from consumers.settings.loading import Loaded, load
from consumers.settings.nats import NatsSettings, StreamSettings
from consumers.settings.reloading import LiveSettings
from consumers.settings.sections import Tables, declared_settings
from consumers.settings.setting import Setting
from consumers.settings.settings import Settings
from consumers.settings.stream_fields import setting_of

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
