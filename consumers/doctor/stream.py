"""Checks of the streams: configuration, retention, durability, and consumers."""

from __future__ import annotations

import asyncio
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from consumers.doctor.check import MAKE_STREAMS, Finding
from consumers.settings import setting_of
from noetl_events.jetstream.consumer_config import remarks
from noetl_events.jetstream.consumers import require_consumer
from noetl_events.jetstream.errors import ConsumerDrift, ConsumerMissing, Refused, ServerTooOld, StreamMissing
from noetl_events.jetstream.probes import stream_of
from noetl_events.jetstream.streams import examine_stream, find_stream, show_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consumers.doctor.check import CheckContext, Severity
    from noetl_events.jetstream.consumers import ConsumerInfo
    from noetl_events.jetstream.declarations import ConsumerDeclaration, StreamDeclaration
    from noetl_events.jetstream.stream_config import Deviation, Weight

_STREAM: Final = "stream"
_SEVERITIES: Final[dict[Weight, Severity]] = {
    "refused": "fault",
    "unsafe": "fault",
    "weaker": "warning",
    "lacking": "warning",
    "told": "warning",
}
# `check_discard` and `check_retention` report this with the outage to survive.
_CHECKED_ELSEWHERE: Final = ("discard",)


async def check_stream(context: CheckContext) -> list[Finding]:
    """Compare the streams that the role may read with their declarations."""
    if context.role == "publisher" and not context.work.spool:
        return [await _taken(context)]
    streams = {
        "publisher": context.settings.streams[:1],
        "gateway": context.settings.streams[:2],
    }.get(context.role, context.settings.streams)
    return [finding for declared in streams for finding in await _compare(context, declared)]


async def _compare(context: CheckContext, declared: StreamDeclaration) -> list[Finding]:
    try:
        messages = (await find_stream(context.connection, declared.name)).state.messages
        found = await examine_stream(context.connection, declared)
    except StreamMissing as exc:
        # `check_dead_letters` reports the other missing streams to a projector.
        return [_missing(str(exc))] if declared.kind == "events" or context.role == "admin" else []
    except Refused as exc:
        return [Finding(check=_STREAM, severity="fault", found=str(exc))]
    deviations = [_finding(declared, each) for each in found if each.field not in _CHECKED_ELSEWHERE]
    if deviations:
        return deviations
    words = f"{declared.name} is as declared, and holds {messages:,} messages"
    return [Finding(check=_STREAM, severity="ok", found=words)]


async def _taken(context: CheckContext) -> Finding:
    """Check that the stream stores the published subjects, as far as a publisher may see that."""
    declared = context.settings.stream
    subject = f"{declared.prefix}.doctor"
    name = await stream_of(context.connection, subject)
    if name == declared.name:
        return Finding(check=_STREAM, severity="ok", found=f"{name} takes {subject}")
    return _missing(f"{subject} is taken by {name or 'no stream'}, not by {declared.name}")


def _missing(found: str) -> Finding:
    return Finding(check=_STREAM, severity="fault", found=found, remedy=MAKE_STREAMS)


def _finding(declared: StreamDeclaration, deviation: Deviation) -> Finding:
    if deviation.weight == "lacking":
        found = f"{declared.name}: {deviation.field} is off: {deviation.meaning}"
        return Finding(check=_STREAM, severity="warning", found=found, remedy="noetl-events stream ensure --upgrade")
    setting = setting_of(declared.kind, deviation.field)
    instead = f", or set {setting.environ} to the value on the server" if setting else ""
    # A configured value that differs is a fault, because the setting or the stream is wrong.
    severity = "fault" if setting and deviation.weight == "weaker" else _SEVERITIES[deviation.weight]
    return Finding(
        check=_STREAM,
        severity=severity,
        found=f"{declared.name}: {deviation}",
        remedy=f"nats stream edit {declared.name}{instead}",
    )


_HOUR: Final = 3_600.0


async def check_discard(context: CheckContext) -> list[Finding]:
    """Check that a full stream refuses new messages, and does not drop unprocessed ones."""
    config = (await show_stream(context.connection, context.settings.stream.name)).config
    limits = [
        f"{field} {value:,}"
        for field, value in (("max_bytes", config.max_bytes), ("max_msgs", config.max_msgs))
        if value is not None and value > 0
    ]
    if not limits or config.discard == "new":
        return [Finding(check="discard", severity="ok", found="nothing is dropped to make room")]
    return [
        Finding(
            check="discard",
            severity="fault",
            found=f"beyond {' or '.join(limits)} the oldest events are dropped, stored elsewhere or not",
            remedy=f"nats stream edit {config.name} --discard=new",
        )
    ]


async def check_retention(context: CheckContext) -> list[Finding]:
    """Compare the retention with the outage to survive."""
    name = context.settings.stream.name
    kept = (await show_stream(context.connection, name)).config.max_age or 0.0
    if not kept or kept >= context.outage:
        found = f"messages are kept {_hours(kept) if kept else 'for ever'}"
        return [Finding(check="retention", severity="ok", found=found)]
    remedy = f"nats stream edit {name} --max-age={context.outage:.0f}s, and set NOETL_EVENT_STREAM_RETENTION_SECS to it"
    found = f"messages are kept {_hours(kept)}, less than an outage of {_hours(context.outage)}"
    return [Finding(check="retention", severity="fault", found=found, remedy=remedy)]


async def check_duplicates(context: CheckContext) -> list[Finding]:
    """Compare the duplicate window with the replay window of spools."""
    name = context.settings.stream.name
    window = (await show_stream(context.connection, name)).config.duplicate_window or 0.0
    if window >= context.replay_window:
        found = f"ids are remembered {window:,.0f} s, at least a spool's {context.replay_window:,.0f} s"
        return [Finding(check="duplicates", severity="ok", found=found)]
    return [
        Finding(
            check="duplicates",
            severity="warning",
            found=f"ids are remembered {window:,.0f} s, and a spool sends events again for "
            f"{context.replay_window:,.0f} s: then the stream has events twice, the destination once",
            remedy=f"nats stream edit {name} --dupe-window={context.replay_window:.0f}s, and "
            "set NOETL_EVENT_STREAM_DEDUP_SECS to it",
        )
    ]


def _hours(seconds: float) -> str:
    return f"{seconds / _HOUR:,.1f} h"


_DURABILITY: Final = "durability"
_TIMEOUT: Final = 3.0
_MOST_BYTES: Final = 4 * 1024 * 1024
_REMEDY: Final = "write `jetstream { sync_interval: always }` and restart nats-server, or have publishers spool"


class _Config(msgspec.Struct):
    sync_interval: int = 0
    sync_always: bool = False


class _JetStream(msgspec.Struct):
    config: _Config | None = None


class _Varz(msgspec.Struct):
    server_name: str
    jetstream: _JetStream


async def check_durability(context: CheckContext) -> list[Finding]:
    """Ask the server's monitoring for the sync interval."""
    if not context.monitor:
        return [_unknown("unknown whether the server syncs before it acknowledges", "give --monitor")]
    try:
        varz = await asyncio.to_thread(_read, context.monitor)
    except (OSError, HTTPException, msgspec.DecodeError) as exc:
        reason = f"no monitoring of nats-server at {context.monitor}: {str(exc) or type(exc).__name__}"
        return [_unknown(reason, "turn it on in nats-server, with `http: 127.0.0.1:8222`, and give its URL")]
    config = varz.jetstream.config
    if config is None:
        found = f"{varz.server_name} has no JetStream"
        return [
            Finding(
                check=_DURABILITY, severity="fault", found=found, remedy="write `jetstream {}` in its configuration"
            )
        ]
    if config.sync_always:
        return [Finding(check=_DURABILITY, severity="ok", found=f"{varz.server_name} syncs before it acknowledges")]
    found = (
        f"{varz.server_name} syncs every {config.sync_interval / 1e9:g} s: a power failure loses acknowledged messages"
    )
    return [Finding(check=_DURABILITY, severity="warning", found=found, remedy=_REMEDY)]


def _read(url: str) -> _Varz:
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.netloc, timeout=_TIMEOUT)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/varz")
        return msgspec.json.decode(connection.getresponse().read(_MOST_BYTES), type=_Varz)
    finally:
        connection.close()


def _unknown(found: str, remedy: str) -> Finding:
    return Finding(check=_DURABILITY, severity="unknown", found=found, remedy=remedy)


_CONSUMER: Final = "consumer"


async def check_consumers(context: CheckContext) -> list[Finding]:
    """Compare each consumer of a projector with its declaration."""
    if context.role != "projector":
        return []
    return [finding for declared in context.work.consumers for finding in await _compare_consumer(context, declared)]


async def _compare_consumer(context: CheckContext, declared: ConsumerDeclaration) -> list[Finding]:
    try:
        info = await require_consumer(context.connection, declared)
    except ConsumerMissing as exc:
        remedy = "start the projector, which creates it"
        return [Finding(check=_CONSUMER, severity="warning", found=str(exc), remedy=remedy)]
    except ServerTooOld as exc:
        found, _, remedy = str(exc).partition(": ")
        return [Finding(check=_CONSUMER, severity="fault", found=found, remedy=remedy)]
    except ConsumerDrift as exc:
        return [
            Finding(check=_CONSUMER, severity="fault", found=f"{declared.name}: {difference}", remedy=exc.remedy)
            for difference in exc.differences
        ]
    warnings = [*_warnings(declared, info)]
    waiting = info.num_pending + info.num_ack_pending
    as_declared = "is read" if warnings else "is as declared"
    found = f"{declared.name} {as_declared}, {waiting:,} messages pending"
    return [*warnings, Finding(check=_CONSUMER, severity="ok", found=found)]


def _warnings(declared: ConsumerDeclaration, info: ConsumerInfo) -> Iterator[Finding]:
    place = f"{declared.stream} {declared.name}"
    if info.paused:
        found = f"{declared.name} is paused by an operator, for another {info.pause_remaining / 1e9:,.0f} s"
        yield Finding(check=_CONSUMER, severity="warning", found=found, remedy=f"nats consumer resume {place}")
    for field, sentence in remarks(declared, info.config).items():
        found = f"{declared.name}: {field}: {sentence}"
        remedy = f"nats consumer edit {place}, or leave it as it is"
        yield Finding(check=_CONSUMER, severity="warning", found=found, remedy=remedy)


_DEAD_LETTERS: Final = "dead letters"


async def check_dead_letters(context: CheckContext) -> list[Finding]:
    """Check that the right streams store a projector's dead letters and crash records."""
    if context.role != "projector":
        return []
    letters, trials, consumer = context.work.dead_letters, context.work.trials, context.work.consumers[0]
    trial = f"{trials.prefix}.{consumer.stream}.{consumer.name}.doctor"
    return [
        await _check_subject(context, f"{letters.prefix}.doctor", letters.name),
        await _check_subject(context, trial, trials.name),
    ]


async def _check_subject(context: CheckContext, subject: str, wanted: str) -> Finding:
    name = await stream_of(context.connection, subject)
    if name == wanted:
        return Finding(check=_DEAD_LETTERS, severity="ok", found=f"{wanted} takes {subject}")
    try:
        await find_stream(context.connection, wanted)
    except StreamMissing:
        pass
    except Refused as exc:
        return Finding(check=_DEAD_LETTERS, severity="fault", found=str(exc))
    found = f"{subject} is taken by {name or 'no stream'}, not by {wanted}: a message for it blocks the projector"
    return Finding(check=_DEAD_LETTERS, severity="fault", found=found, remedy=MAKE_STREAMS)
