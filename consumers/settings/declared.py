"""
All settings: each is declared once, as a field of the struct of its table in the settings file.

The file, the environment, `noetl-events config` and the reference are derived from these structs.  A new setting is a
new field of a struct; a new table is a new field of `Tables`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from consumers.settings.setting import NAME, NAME_WANTED, PREFIX, PREFIX_WANTED, Section, Setting, setting, settings_of

if TYPE_CHECKING:
    from noetl_events.jetstream.declarations import StreamKind

_DAY: Final = 86_400


class PublishSettings(Section, frozen=True, kw_only=True):
    """Settings for publishing events."""

    message_id: Annotated[
        Literal["digest", "event_id"],
        setting(
            "Message id of an event: its id with a digest, or only its id, as in the first version.",
            "NOETL_EVENT_MESSAGE_ID",
        ),
    ] = "digest"


class ProjectorSettings(Section, frozen=True, kw_only=True):
    """Settings of a projector."""

    to: Annotated[
        tuple[str, ...],
        setting(
            "URLs of the destinations; each gets a consumer of its own.",
            "NOETL_PROJECTOR_TO",
            secrecy="url",
            wanted="a list of URLs, as ['sqlite:///events.db']",
        ),
    ] = ()
    to_file: Annotated[str, setting("File with these URLs, one per line.", "NOETL_PROJECTOR_TO_FILE", is_file=True)] = (
        ""
    )
    durable: Annotated[
        str,
        setting(
            "Name of the durable consumer; replicas share one.",
            "NOETL_PROJECTOR_DURABLE",
            pattern=NAME,
            wanted=NAME_WANTED,
        ),
    ] = "noetl_projector"
    standby: Annotated[
        bool,
        setting("One replica works, in the order of the stream; the rest are on standby.", "NOETL_PROJECTOR_STANDBY"),
    ] = False
    watch_max_deliver: Annotated[
        bool,
        setting(
            "Make dead letters of messages that consumers of other programs give up on (`max_deliver`).",
            "NOETL_WATCH_MAX_DELIVER",
        ),
    ] = False
    batch_size: Annotated[
        int,
        setting(
            "Maximum number of events per write.",
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
            "Time until an unacknowledged event is redelivered.",
            "NOETL_ACK_WAIT_SECS",
            unit="seconds",
            gt=0,
            le=_DAY,
        ),
    ] = 30.0
    pin_ttl: Annotated[
        float,
        setting(
            "Time without a request of a replica until another takes over, with standby or partitions.",
            "NOETL_PIN_SECS",
            unit="seconds",
            gt=0,
            le=_DAY,
        ),
    ] = 10.0
    max_ack_pending: Annotated[
        int,
        setting(
            "Maximum number of unacknowledged events, over all replicas; an account or a stream may allow fewer.",
            "NOETL_MAX_ACK_PENDING",
            unit="events",
            ge=1,
            le=1_000_000,
        ),
    ] = 20_000
    presence: Annotated[
        str,
        setting(
            "Prefix of the subjects by which replicas share the partitions.",
            "NOETL_PRESENCE_SUBJECT",
            pattern=PREFIX,
            wanted=PREFIX_WANTED,
        ),
    ] = "noetl.presence"
    stall_after: Annotated[
        float,
        setting(
            "Time without activity until the projector is unhealthy; longer than a write may take.",
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
            "Address of health checks and metrics, `HOST:PORT` or `off`; 127.0.0.1:9464 if free, by default.",
            "NOETL_LISTEN",
            wanted="HOST:PORT or off",
        ),
    ] = ""


class GatewaySettings(Section, frozen=True, kw_only=True):
    """Settings of a gateway."""

    listen: Annotated[
        str, setting("Address of the gateway, `HOST:PORT`.", "NOETL_GATEWAY_LISTEN", wanted="HOST:PORT")
    ] = "127.0.0.1:8080"
    token_file: Annotated[
        str,
        setting(
            "File with tokens, one per line, reloaded when it changes; required unless bound to loopback.",
            "NOETL_GATEWAY_TOKEN_FILE",
            is_file=True,
        ),
    ] = ""


class DaemonSettings(Section, frozen=True, kw_only=True):
    """Settings for the shutdown of a daemon."""

    stop_deadline: Annotated[
        float,
        setting(
            "Time from the first signal until the process exits, even with events in flight.",
            "NOETL_STOP_DEADLINE_SECS",
            unit="seconds",
            reloadable=True,
            gt=0,
            le=_DAY,
        ),
    ] = 25.0


class LogSettings(Section, frozen=True, kw_only=True):
    """Settings of the log."""

    level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"],
        setting("Lowest level that is logged.", "NOETL_LOG_LEVEL", reloadable=True),
    ] = "info"
    format: Annotated[
        Literal["auto", "json", "console"],
        setting("Format of the log; `auto` is console on a terminal, else JSON.", "NOETL_LOG_FORMAT"),
    ] = "auto"


_SUBJECT: Final = r"^[^\s*>]{1,200}$"
_LABEL: Final = r"^[^\s.*>]{1,200}$"
# NATS would replace shorter times by its default, or refuse them.
_SHORTEST: Final = 0.1
_NO_AGE: Final = (0.0, _SHORTEST)
_NO_SIZE: Final = (-1.0, 1.0)
# In nanoseconds the number still has to fit into 64 bits.
_CENTURY: Final = 100 * 365 * 86_400
_MOST_BYTES: Final = 2**63 - 1


class NatsSettings(Section, frozen=True, kw_only=True):
    """Address of NATS, and the credentials of this process."""

    servers: Annotated[str, setting("URLs of NATS, separated by commas.", "NATS_URL", secrecy="url")] = (
        "nats://127.0.0.1:4222"
    )
    servers_file: Annotated[str, setting("File with these URLs.", "NATS_URL_FILE", is_file=True)] = ""
    user: Annotated[str, setting("User; wins over one in the URL.", "NATS_USER")] = ""
    password: Annotated[str, setting("Password of the user.", "NATS_PASSWORD", secrecy="secret")] = ""
    password_file: Annotated[
        str,
        setting("File with the password, reloaded at every connection.", "NATS_PASSWORD_FILE", is_file=True),
    ] = ""
    token: Annotated[str, setting("Token, instead of a user.", "NATS_TOKEN", secrecy="secret")] = ""
    token_file: Annotated[
        str, setting("File with the token, reloaded at every connection.", "NATS_TOKEN_FILE", is_file=True)
    ] = ""
    credentials: Annotated[
        str, setting("Path of a `.creds` file, reloaded at every connection.", "NATS_CREDS", is_file=True)
    ] = ""
    nkey_seed: Annotated[
        str, setting("Path of an nkey seed file, reloaded at every connection.", "NATS_NKEY_SEED", is_file=True)
    ] = ""
    tls_ca: Annotated[
        str,
        setting("Path of the CA certificates for the server; those of the system by default.", "NATS_TLS_CA"),
    ] = ""
    tls_cert: Annotated[str, setting("Path of the client certificate, for mutual TLS.", "NATS_TLS_CERT")] = ""
    tls_key: Annotated[str, setting("Path of the key of the client certificate.", "NATS_TLS_KEY", is_file=True)] = ""
    tls_first: Annotated[
        bool,
        setting("Start TLS before the server's first message, for a server with handshake_first.", "NATS_TLS_FIRST"),
    ] = False
    domain: Annotated[
        str,
        setting(
            "JetStream domain of the streams, for a client at a leaf node with another domain.",
            "NATS_DOMAIN",
            pattern=_LABEL,
            wanted="one token of a subject",
        ),
    ] = ""
    api_prefix: Annotated[
        str,
        setting(
            "Subject of the JetStream API that was imported from another account; excludes a domain.",
            "NATS_API_PREFIX",
            pattern=_SUBJECT,
            wanted="a subject without wildcards",
        ),
    ] = ""
    inbox_prefix: Annotated[
        str,
        setting(
            "Prefix of the subjects for replies; a private one keeps other users from reading them.",
            "NATS_INBOX_PREFIX",
            pattern=_SUBJECT,
            wanted="a subject without wildcards",
        ),
    ] = "_INBOX"


class StreamSettings(Section, frozen=True, kw_only=True):
    """Settings of the stream of events."""

    name: Annotated[str, setting("Name of the stream.", "NOETL_EVENT_STREAM", pattern=NAME, wanted=NAME_WANTED)] = (
        "noetl_events"
    )
    subject: Annotated[
        str,
        setting(
            "Prefix of the subjects of its events.",
            "NOETL_EVENT_STREAM_SUBJECT",
            pattern=PREFIX,
            wanted=PREFIX_WANTED,
        ),
    ] = "noetl.events"
    max_age: Annotated[
        float,
        setting(
            "Retention time of an event; 0 for ever.",
            "NOETL_EVENT_STREAM_RETENTION_SECS",
            unit="seconds",
            gap=_NO_AGE,
            ge=0,
            le=_CENTURY,
        ),
    ] = 86_400.0
    max_bytes: Annotated[
        int,
        setting(
            "Maximum size of the stream, which refuses further events; -1 for no limit.",
            "NOETL_EVENT_STREAM_MAX_BYTES",
            unit="bytes",
            gap=_NO_SIZE,
            ge=-1,
            le=_MOST_BYTES,
        ),
    ] = -1
    duplicate_window: Annotated[
        float,
        setting(
            "Time for which the stream deduplicates by message id; at most the retention time.",
            "NOETL_EVENT_STREAM_DEDUP_SECS",
            unit="seconds",
            ge=_SHORTEST,
            le=_CENTURY,
        ),
    ] = 120.0
    replicas: Annotated[
        int, setting("Number of servers that store the stream: 1, 3 or 5.", "NOETL_EVENT_STREAM_REPLICAS", ge=1, le=5)
    ] = 1
    partitions: Annotated[
        int,
        setting(
            "Number of partitions, which keep each execution in order; 0 for none.",
            "NOETL_EVENT_STREAM_PARTITIONS",
            ge=0,
            le=1_000,
        ),
    ] = 0


class DeadLetterSettings(Section, frozen=True, kw_only=True):
    """Settings of the stream of dead letters; replicas and duplicate window are those of the stream of events."""

    name: Annotated[str, setting("Name of the stream.", "NOETL_DEAD_STREAM", pattern=NAME, wanted=NAME_WANTED)] = (
        "noetl_events_dead"
    )
    subject: Annotated[
        str,
        setting(
            "Prefix of the subjects of dead letters.",
            "NOETL_DEAD_STREAM_SUBJECT",
            pattern=PREFIX,
            wanted=PREFIX_WANTED,
        ),
    ] = "noetl.dead"
    max_age: Annotated[
        float,
        setting(
            "Retention time of a dead letter; 0 for ever.",
            "NOETL_DEAD_STREAM_RETENTION_SECS",
            unit="seconds",
            gap=_NO_AGE,
            ge=0,
            le=_CENTURY,
        ),
    ] = 30 * 86_400.0
    max_bytes: Annotated[
        int,
        setting(
            "Maximum size of the stream; a full one blocks the projectors; -1 for no limit.",
            "NOETL_DEAD_STREAM_MAX_BYTES",
            unit="bytes",
            gap=_NO_SIZE,
            ge=-1,
            le=_MOST_BYTES,
        ),
    ] = -1


class TrialSettings(Section, frozen=True, kw_only=True):
    """Settings of the stream of crash records, which has a few kilobytes."""

    name: Annotated[str, setting("Name of the stream.", "NOETL_TRIALS_STREAM", pattern=NAME, wanted=NAME_WANTED)] = (
        "noetl_events_trials"
    )
    subject: Annotated[
        str,
        setting(
            "Prefix of the subjects of crash records.",
            "NOETL_TRIALS_STREAM_SUBJECT",
            pattern=PREFIX,
            wanted=PREFIX_WANTED,
        ),
    ] = "noetl.trials"
    max_bytes: Annotated[
        int,
        setting(
            "Maximum size of the stream; a full one blocks the projectors; -1 for no limit.",
            "NOETL_TRIALS_STREAM_MAX_BYTES",
            unit="bytes",
            gap=_NO_SIZE,
            ge=-1,
            le=_MOST_BYTES,
        ),
    ] = -1


class Tables(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of noetl-events, in the tables of the settings file."""

    nats: NatsSettings = NatsSettings()
    stream: StreamSettings = StreamSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    trials: TrialSettings = TrialSettings()
    publish: PublishSettings = PublishSettings()
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
    """Return all settings, in the order of the file."""
    return tuple(found for name, kind in section_kinds().items() for found in settings_of(name, kind))


_SECTIONS: Final[dict[StreamKind, str]] = {"events": "stream", "dead letters": "dead_letters", "trials": "trials"}
# Fields that all three streams share.
_SHARED: Final = {"duplicate_window": "duplicate_window", "num_replicas": "replicas"}
_OF_EACH: Final = {"max_age": "max_age", "max_bytes": "max_bytes", "name": "name", "subjects": "subject"}


def setting_of(kind: StreamKind, field: str) -> Setting | None:
    """Return the setting for *field* of the stream of that *kind*; None if there is none."""
    if field in _SHARED:
        key = f"stream.{_SHARED[field]}"
    elif field == "subject_transform" and kind == "events":
        key = "stream.partitions"
    else:
        key = f"{_SECTIONS[kind]}.{_OF_EACH.get(field, '')}"
    return next((setting for setting in declared_settings() if setting.key == key), None)
