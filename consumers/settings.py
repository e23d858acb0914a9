"""What the environment says, read once, at the edge, into one frozen value."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.topology import StreamDeclaration

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONNECT: Final = {
    "NATS_URL": "servers",
    "NATS_USER": "user",
    "NATS_PASSWORD": "password",
    "NATS_TOKEN": "token",
    "NATS_CREDS": "credentials",
    "NATS_NKEY_SEED": "nkey_seed",
    "NATS_TLS_CA": "tls_ca",
    "NATS_TLS_CERT": "tls_cert",
    "NATS_TLS_KEY": "tls_key",
    "NATS_TLS_FIRST": "tls_first",
    "NATS_INBOX_PREFIX": "inbox_prefix",
}
_STREAM: Final = {
    "NOETL_EVENT_STREAM": "name",
    "NOETL_EVENT_STREAM_RETENTION_SECS": "max_age",
    "NOETL_EVENT_STREAM_MAX_BYTES": "max_bytes",
    "NOETL_EVENT_STREAM_DEDUP_SECS": "duplicate_window",
    "NOETL_EVENT_STREAM_REPLICAS": "replicas",
    "NOETL_EVENT_STREAM_PARTITIONS": "partitions",
}
_PROJECTOR: Final = {
    "NOETL_EVENT_STREAM_BATCH": "batch_size",
    "NOETL_ACK_WAIT_SECS": "ack_wait",
    "NOETL_STOP_DEADLINE_SECS": "stop_deadline",
    "NOETL_PIN_SECS": "pin_ttl",
    "NOETL_STALL_SECS": "stall_after",
    "NOETL_LISTEN": "listen",
}
_SECRETS: Final = ("NATS_PASSWORD", "NATS_TOKEN")

T = TypeVar("T")


class SettingsError(ValueError):
    """A setting that cannot be used; the message names the variable, its value and what was wanted."""


class ProjectorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    How a projector works.

    Args:
        batch_size: events written at once, at most.
        ack_wait: seconds until an unacknowledged message is delivered again.
        stop_deadline: seconds from the first signal until the process leaves, whatever is in hand.
        pin_ttl: seconds without a sign of a replica after which another takes over, with standby or partitions.
        stall_after: seconds without movement until it is no longer healthy; longer than a write may take.
        listen: where health and metrics are served, `HOST:PORT` or "off"; see `listening`.

    """

    batch_size: int = 2_000
    ack_wait: float = 30.0
    stop_deadline: float = 25.0
    pin_ttl: float = 10.0
    stall_after: float = 60.0
    listen: str = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set."""

    connect: ConnectOptions
    stream: StreamDeclaration
    projector: ProjectorSettings

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], *, nats: str | None = None) -> Settings:
        """
        Return the settings in *environ*; *nats*, from a command line, wins over `NATS_URL`.

        A secret can stand in a file that `NATS_PASSWORD_FILE` or `NATS_TOKEN_FILE` names.

        Raises:
            SettingsError: naming the variable.

        """
        given = dict(environ) | _secrets(environ) | ({"NATS_URL": nats} if nats else {})
        return cls(
            connect=_read(given, _CONNECT, ConnectOptions),
            stream=_read(given, _STREAM, StreamDeclaration),
            projector=_read(given, _PROJECTOR, ProjectorSettings),
        )


def _read(environ: Mapping[str, str], names: Mapping[str, str], kind: type[T]) -> T:
    values: dict[str, Any] = {field: environ[name] for name, field in names.items() if environ.get(name)}
    for name, field in names.items():
        try:
            if field in values:
                # One at a time, so that an error names the variable.
                msgspec.convert({field: values[field]}, kind, strict=False)
        except msgspec.ValidationError as exc:
            shown = "***" if name in _SECRETS else repr(values[field])
            raise SettingsError(f"{name}: {shown}: {str(exc).partition(' - at')[0]}") from None
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise SettingsError(str(exc)) from None


def _secrets(environ: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name in _SECRETS:
        if path := environ.get(f"{name}_FILE"):
            try:
                found[name] = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as exc:
                raise SettingsError(f"{name}_FILE: {path!r} cannot be read: {exc}") from None
    return found
