"""Options that several commands share, and the parsers for times and ages in options."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter, validators

from consumers import logs
from consumers.settings import CONFIG, LiveSettings, Loaded, Settings, load
from noetl_events.jetstream.connect.servers import redacted
from noetl_events.sink import EventSink, open_sink

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_AGE: Final = re.compile(r"([0-9]{1,6})([smhd])")


def read_duration(option: str, text: str) -> float:
    """
    Return the seconds in *text*, such as `90s`, `30m`, `2h` or `7d`.

    Raises:
        ValueError: the text is no duration; the message begins with *option*.

    """
    if age := _AGE.fullmatch(text):
        return timedelta(**{_UNITS[age[2]]: int(age[1])}).total_seconds()
    raise ValueError(f"{option}: {text!r} is no duration such as 90s, 30m, 2h or 7d")


def read_moment(option: str, text: str, *, now: datetime | None = None) -> datetime:
    """
    Return the time in *text*: RFC 3339, in UTC if it has no zone, or an age such as `30m`, `2h` or `7d`.

    Raises:
        ValueError: the text is neither; the message begins with *option*.

    """
    try:
        if age := _AGE.fullmatch(text):
            return (now or datetime.now(UTC)) - timedelta(**{_UNITS[age[2]]: int(age[1])})
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{option}: {text!r} is neither a time such as 2026-05-31T03:14:15Z nor an age such as 30m, 2h or 7d"
        ) from None


Nats = Annotated[str | None, Parameter(help="URL of NATS; `NATS_URL` by default.", negative=())]
Partitions = Annotated[
    int | None, Parameter(help="Partitions of the stream; `NOETL_EVENT_STREAM_PARTITIONS` by default.", negative=())
]
AsJson = Annotated[bool, Parameter(name="--json", help="Print the result as JSON.", negative=())]
FromSequence = Annotated[
    int | None, Parameter(validator=validators.Number(gte=1), help="Start at this sequence of the stream.")
]
FromTime = Annotated[
    str | None, Parameter(help="Start at this time: `2026-05-31T03:14:15Z`, or `2h` for two hours ago.")
]


def read_settings(nats: str | None, *, partitions: int | None = None) -> Settings:
    """Return the settings of file and environment, overridden by *nats* and *partitions* from the command line."""
    return live_settings(nats=nats, partitions=partitions).current


def live_settings(*, nats: str | None = None, partitions: int | None = None, **chosen: Any) -> LiveSettings:
    """
    Return the same settings for a daemon, overridden by *chosen* (such as `projector__durable`), and configure the log.

    Raises:
        SettingsError: a setting is invalid.

    """
    keys = {name.replace("__", "."): value for name, value in chosen.items()}
    live = LiveSettings(partial(load_settings, {"nats.servers": nats, "stream.partitions": partitions} | keys))
    logs.configure(live.current.log.level, live.current.log.format)
    live.follow(lambda settings: logs.configure(settings.log.level, settings.log.format))
    return live


def open_labelled(label: str, url: str) -> EventSink:
    """
    Return the sink of *url*, which was given as the setting *label*.

    Raises:
        ValueError: the URL is invalid; the message names *label*, and hides secrets of the URL.

    """
    try:
        return open_sink(url)
    except ValueError as exc:
        raise ValueError(f"{label}: {redacted(url)!r}: {exc}") from None


def load_settings(chosen: Mapping[str, Any]) -> Loaded:
    """Return the settings of the file that `NOETL_CONFIG` names and of the environment, overridden by *chosen*."""
    path = os.environ.get(CONFIG)
    return load(os.environ, config=Path(path) if path else None, chosen=chosen)


def read_start(from_sequence: int | None, from_time: str | None) -> int | datetime | None:
    """
    Return the position to start at; None for the start of the stream.

    Raises:
        ValueError: both options are given, or the time is invalid.

    """
    if from_sequence is not None and from_time is not None:
        raise ValueError("--from-sequence, --from-time: give one of them")
    return from_sequence if from_time is None else read_moment("--from-time", from_time)
