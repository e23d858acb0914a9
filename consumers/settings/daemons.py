"""The settings of the daemons: each once, a field of the struct of its table, with all that is known of it."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from consumers.settings.section import NAME, NAME_WANTED, PREFIX, PREFIX_WANTED, Section
from consumers.settings.setting import setting

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
