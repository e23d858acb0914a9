"""What is wrong with the settings."""


class SettingsError(ValueError):
    """A setting that cannot be used; the message names its place, its value unless it is secret, and what to give."""
