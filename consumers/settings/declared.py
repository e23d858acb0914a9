"""
All settings: each is declared once, as a field of the struct of its table in the settings file.

The file, the environment, `noetl-events config` and the reference are made from these structs.  A new setting is a new
field of a struct; a new table is a new field of `Sections`.
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
    """The way of events into the stream."""

    message_id: Annotated[
        Literal["digest", "event_id"],
        setting(
            "What the stream knows an event by: its id and a digest, or as the first version did its bare id.",
            "NOETL_EVENT_MESSAGE_ID",
        ),
    ] = "digest"


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
            pattern=NAME,
            wanted=NAME_WANTED,
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
    max_ack_pending: Annotated[
        int,
        setting(
            "Events delivered and not acknowledged, over all replicas; an account or a stream may allow fewer.",
            "NOETL_MAX_ACK_PENDING",
            unit="events",
            ge=1,
            le=1_000_000,
        ),
    ] = 20_000
    presence: Annotated[
        str,
        setting(
            "What the subjects begin with on which replicas share the lanes.",
            "NOETL_PRESENCE_SUBJECT",
            pattern=PREFIX,
            wanted=PREFIX_WANTED,
        ),
    ] = "noetl.presence"
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
    format: Annotated[
        Literal["auto", "json", "console"],
        setting("As JSON or for people; by default for people on a terminal.", "NOETL_LOG_FORMAT"),
    ] = "auto"


_SUBJECT: Final = r"^[^\s*>]{1,200}$"
_LABEL: Final = r"^[^\s.*>]{1,200}$"
# The values that a server takes: others it would replace by its own, or refuse.
_SHORTEST: Final = 0.1
_NO_AGE: Final = (0.0, _SHORTEST)
_NO_SIZE: Final = (-1.0, 1.0)
# In nanoseconds it still has to be a number that NATS holds.
_CENTURY: Final = 100 * 365 * 86_400
_MOST_BYTES: Final = 2**63 - 1


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
    domain: Annotated[
        str,
        setting(
            "JetStream domain of the streams, seen from a leaf node with a domain of its own.",
            "NATS_DOMAIN",
            pattern=_LABEL,
            wanted="one token of a subject",
        ),
    ] = ""
    api_prefix: Annotated[
        str,
        setting(
            "Subject that JetStream's API of another account is imported as; instead of a domain.",
            "NATS_API_PREFIX",
            pattern=_SUBJECT,
            wanted="a subject without wildcards",
        ),
    ] = ""
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

    name: Annotated[str, setting("Name of the stream.", "NOETL_EVENT_STREAM", pattern=NAME, wanted=NAME_WANTED)] = (
        "noetl_events"
    )
    subject: Annotated[
        str,
        setting(
            "What the subjects of its events begin with.",
            "NOETL_EVENT_STREAM_SUBJECT",
            pattern=PREFIX,
            wanted=PREFIX_WANTED,
        ),
    ] = "noetl.events"
    max_age: Annotated[
        float,
        setting(
            "How long an event is kept; 0 for ever.",
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
            "Size of the stream, which refuses more; -1 without a limit.",
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
            "How long the stream remembers an event's id; not longer than it keeps the event.",
            "NOETL_EVENT_STREAM_DEDUP_SECS",
            unit="seconds",
            ge=_SHORTEST,
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


class DeadLetterSettings(Section, frozen=True, kw_only=True):
    """The stream of dead letters, as it shall be; replicas and duplicate window are those of the stream of events."""

    name: Annotated[str, setting("Name of the stream.", "NOETL_DEAD_STREAM", pattern=NAME, wanted=NAME_WANTED)] = (
        "noetl_events_dead"
    )
    subject: Annotated[
        str,
        setting(
            "What the subjects of dead letters begin with.",
            "NOETL_DEAD_STREAM_SUBJECT",
            pattern=PREFIX,
            wanted=PREFIX_WANTED,
        ),
    ] = "noetl.dead"
    max_age: Annotated[
        float,
        setting(
            "How long a dead letter is kept; 0 for ever.",
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
            "Size of the stream; full, it holds the projectors up; -1 without a limit.",
            "NOETL_DEAD_STREAM_MAX_BYTES",
            unit="bytes",
            gap=_NO_SIZE,
            ge=-1,
            le=_MOST_BYTES,
        ),
    ] = -1


class TrialSettings(Section, frozen=True, kw_only=True):
    """The stream of notes that projectors keep for their next start; it holds a few kilobytes."""

    name: Annotated[str, setting("Name of the stream.", "NOETL_TRIALS_STREAM", pattern=NAME, wanted=NAME_WANTED)] = (
        "noetl_events_trials"
    )
    subject: Annotated[
        str,
        setting(
            "What the subjects of the notes begin with.",
            "NOETL_TRIALS_STREAM_SUBJECT",
            pattern=PREFIX,
            wanted=PREFIX_WANTED,
        ),
    ] = "noetl.trials"
    max_bytes: Annotated[
        int,
        setting(
            "Size of the stream; full, it holds the projectors up; -1 without a limit.",
            "NOETL_TRIALS_STREAM_MAX_BYTES",
            unit="bytes",
            gap=_NO_SIZE,
            ge=-1,
            le=_MOST_BYTES,
        ),
    ] = -1


class Tables(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of noetl-events, as a file holds them."""

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
    """Return every setting there is, in the order of the file."""
    return tuple(found for name, kind in section_kinds().items() for found in settings_of(name, kind))


_SECTIONS: Final[dict[StreamKind, str]] = {"events": "stream", "dead letters": "dead_letters", "trials": "trials"}
# Of all three streams.
_SHARED: Final = {"duplicate_window": "duplicate_window", "num_replicas": "replicas"}
_OF_EACH: Final = {"max_age": "max_age", "max_bytes": "max_bytes", "name": "name", "subjects": "subject"}


def setting_of(kind: StreamKind, field: str) -> Setting | None:
    """Return the setting that says what *field* of the stream of that *kind* shall be; None if none does."""
    if field in _SHARED:
        key = f"stream.{_SHARED[field]}"
    elif field == "subject_transform" and kind == "events":
        key = "stream.partitions"
    else:
        key = f"{_SECTIONS[kind]}.{_OF_EACH.get(field, '')}"
    return next((setting for setting in declared_settings() if setting.key == key), None)
