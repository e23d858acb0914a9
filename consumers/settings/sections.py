"""
Every setting, once: a struct for each table of the file, a field for each setting, with all that is known of it.

`declared_settings` lists them; the file, the environment, `noetl-events config` and the reference are made from that.
To add one, add a field, here and nowhere else.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Final, Literal

import msgspec

from consumers.settings.setting import Setting, setting, settings_of

_NAME: Final = r"^[A-Za-z0-9_-]{1,64}$"
_NAME_WANTED: Final = "letters, digits, _ and -, at most 64 of them"
_SUBJECT: Final = r"^[^\s*>]{1,200}$"

_DAY: Final = 86_400
# In nanoseconds it still has to be a number that NATS holds.
_CENTURY: Final = 100 * 365 * _DAY
_MOST_BYTES: Final = 2**63 - 1


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; its repr, which may end up in a log, shows no value."""

    def __repr__(self) -> str:
        """Show the kind only."""
        return f"{type(self).__name__}(...)"


class NatsSettings(Section, frozen=True, kw_only=True):
    """Where NATS is, and who we are there."""

    servers: Annotated[str, setting("URLs of NATS, separated by commas.", "NATS_URL", secrecy="url")] = (
        "nats://127.0.0.1:4222"
    )
    servers_file: Annotated[str, setting("File with these URLs.", "NATS_URL_FILE", is_file=True)] = ""
    user: Annotated[str, setting("User; wins over one in the URL.", "NATS_USER")] = ""
    password: Annotated[str, setting("Password of the user.", "NATS_PASSWORD", secrecy="secret")] = ""
    password_file: Annotated[
        str,
        setting("File with the password, read again at every connection.", "NATS_PASSWORD_FILE", is_file=True),
    ] = ""
    token: Annotated[str, setting("Token, instead of a user.", "NATS_TOKEN", secrecy="secret")] = ""
    token_file: Annotated[
        str, setting("File with the token, read again at every connection.", "NATS_TOKEN_FILE", is_file=True)
    ] = ""
    credentials: Annotated[
        str, setting("Path of a `.creds` file, read again at every connection.", "NATS_CREDS", is_file=True)
    ] = ""
    nkey_seed: Annotated[
        str, setting("Path of an nkey seed file, read again at every connection.", "NATS_NKEY_SEED", is_file=True)
    ] = ""
    tls_ca: Annotated[
        str,
        setting("Path of the authorities that may sign for the server; the system's by default.", "NATS_TLS_CA"),
    ] = ""
    tls_cert: Annotated[str, setting("Path of our certificate, for mutual TLS.", "NATS_TLS_CERT")] = ""
    tls_key: Annotated[str, setting("Path of the key of our certificate.", "NATS_TLS_KEY", is_file=True)] = ""
    tls_first: Annotated[
        bool, setting("Shake hands before the server speaks, for a server that wants it.", "NATS_TLS_FIRST")
    ] = False
    inbox_prefix: Annotated[
        str,
        setting(
            "Subject of our replies; a private one keeps others from reading them.",
            "NATS_INBOX_PREFIX",
            pattern=_SUBJECT,
            wanted="a subject without wildcards",
        ),
    ] = "_INBOX"


class StreamSettings(Section, frozen=True, kw_only=True):
    """The stream of events, as it shall be."""

    name: Annotated[str, setting("Name of the stream.", "NOETL_EVENT_STREAM", pattern=_NAME, wanted=_NAME_WANTED)] = (
        "noetl_events"
    )
    max_age: Annotated[
        float,
        setting(
            "How long an event is kept; 0 for ever.",
            "NOETL_EVENT_STREAM_RETENTION_SECS",
            unit="seconds",
            ge=0,
            le=_CENTURY,
        ),
    ] = 86_400.0
    max_bytes: Annotated[
        int,
        setting(
            "Size of the stream; -1 without a limit.",
            "NOETL_EVENT_STREAM_MAX_BYTES",
            unit="bytes",
            ge=-1,
            le=_MOST_BYTES,
        ),
    ] = -1
    duplicate_window: Annotated[
        float,
        setting(
            "How long the stream remembers an event's id.",
            "NOETL_EVENT_STREAM_DEDUP_SECS",
            unit="seconds",
            ge=0,
            le=_CENTURY,
        ),
    ] = 120.0
    replicas: Annotated[
        int, setting("Servers that keep the stream: 1, 3 or 5.", "NOETL_EVENT_STREAM_REPLICAS", ge=1, le=5)
    ] = 1
    partitions: Annotated[
        int,
        setting(
            "Lanes that keep each execution in order; 0 for none.", "NOETL_EVENT_STREAM_PARTITIONS", ge=0, le=1_000
        ),
    ] = 0


class ProjectorSettings(Section, frozen=True, kw_only=True):
    """How a projector works."""

    to: Annotated[
        tuple[str, ...],
        setting(
            "URLs of the destinations; several get a consumer each.",
            "NOETL_PROJECTOR_TO",
            secrecy="url",
            wanted="a list of URLs, as ['sqlite:///events.db']",
        ),
    ] = ()
    to_file: Annotated[str, setting("File with these URLs, one a line.", "NOETL_PROJECTOR_TO_FILE", is_file=True)] = ""
    durable: Annotated[
        str,
        setting(
            "Name of the durable consumer; replicas share one.",
            "NOETL_PROJECTOR_DURABLE",
            pattern=_NAME,
            wanted=_NAME_WANTED,
        ),
    ] = "noetl_projector"
    standby: Annotated[
        bool, setting("One replica works, in the order of the stream; the others wait.", "NOETL_PROJECTOR_STANDBY")
    ] = False
    batch_size: Annotated[
        int,
        setting(
            "Events written at once, at most.",
            "NOETL_EVENT_STREAM_BATCH",
            unit="events",
            reloadable=True,
            ge=1,
            le=100_000,
        ),
    ] = 2_000
    ack_wait: Annotated[
        float,
        setting(
            "Time until an unacknowledged event is delivered again.",
            "NOETL_ACK_WAIT_SECS",
            unit="seconds",
            gt=0,
            le=_DAY,
        ),
    ] = 30.0
    pin_ttl: Annotated[
        float,
        setting(
            "Time without a sign of a replica after which another takes over, with standby or partitions.",
            "NOETL_PIN_SECS",
            unit="seconds",
            gt=0,
            le=_DAY,
        ),
    ] = 10.0
    stall_after: Annotated[
        float,
        setting(
            "Time without movement until it is no longer healthy; longer than a write may take.",
            "NOETL_STALL_SECS",
            unit="seconds",
            reloadable=True,
            gt=0,
            le=_DAY,
        ),
    ] = 60.0
    listen: Annotated[
        str,
        setting(
            "Where health and metrics are served, `HOST:PORT` or `off`; 127.0.0.1:9464 if free, by default.",
            "NOETL_LISTEN",
            wanted="HOST:PORT or off",
        ),
    ] = ""


class GatewaySettings(Section, frozen=True, kw_only=True):
    """How a gateway works."""

    listen: Annotated[str, setting("Where it serves, `HOST:PORT`.", "NOETL_GATEWAY_LISTEN", wanted="HOST:PORT")] = (
        "127.0.0.1:8080"
    )
    token_file: Annotated[
        str,
        setting(
            "File with tokens, one a line, read again when it changes; required unless bound to loopback.",
            "NOETL_GATEWAY_TOKEN_FILE",
            is_file=True,
        ),
    ] = ""


class DaemonSettings(Section, frozen=True, kw_only=True):
    """How a daemon ends."""

    stop_deadline: Annotated[
        float,
        setting(
            "Time from the first signal until the process leaves, whatever is in hand.",
            "NOETL_STOP_DEADLINE_SECS",
            unit="seconds",
            reloadable=True,
            gt=0,
            le=_DAY,
        ),
    ] = 25.0


class LogSettings(Section, frozen=True, kw_only=True):
    """What is logged."""

    level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"],
        setting("Log from this level up.", "NOETL_LOG_LEVEL", reloadable=True),
    ] = "info"


class Tables(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of noetl-events, as a file holds them."""

    nats: NatsSettings = NatsSettings()
    stream: StreamSettings = StreamSettings()
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
