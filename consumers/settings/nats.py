"""The settings of NATS and the stream, each once; see `daemons.py` for the others."""

from __future__ import annotations

from typing import Annotated, Final

from consumers.settings.section import NAME, NAME_WANTED, PREFIX, PREFIX_WANTED, Section
from consumers.settings.setting import setting

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
