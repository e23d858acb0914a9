"""Whether the stream is there, and as it is declared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consumers.doctor.finding import MAKE_STREAMS, Finding
from consumers.settings import setting_of
from noetl_events.jetstream.errors import Refused, StreamMissing
from noetl_events.jetstream.probing import taker
from noetl_events.jetstream.streams import examine_stream, find_stream

if TYPE_CHECKING:
    from consumers.doctor.finding import Severity
    from consumers.doctor.patient import Patient
    from noetl_events.jetstream.declarations import StreamDeclaration
    from noetl_events.jetstream.stream_config import Deviation, Weight

_NAME: Final = "stream"
_SEVERITIES: Final[dict[Weight, Severity]] = {
    "refused": "fault",
    "unsafe": "fault",
    "weaker": "warning",
    "lacking": "warning",
    "told": "warning",
}
# Told by `keeping`, which knows how long an outage is to be survived.
_TOLD_ELSEWHERE: Final = ("discard",)


async def check_stream(patient: Patient) -> list[Finding]:
    """Compare those that the role may look at, whole."""
    if patient.role == "publisher" and not patient.work.spool:
        return [await _taken(patient)]
    streams = {
        "publisher": patient.settings.streams[:1],
        "gateway": patient.settings.streams[:2],
    }.get(patient.role, patient.settings.streams)
    return [finding for declared in streams for finding in await _compare(patient, declared)]


async def _compare(patient: Patient, declared: StreamDeclaration) -> list[Finding]:
    try:
        messages = (await find_stream(patient.connection, declared.name)).state.messages
        found = await examine_stream(patient.connection, declared)
    except StreamMissing as exc:
        # A check of its own tells a projector of missing streams for dead letters and notes.
        return [_missing(str(exc))] if declared.kind == "events" or patient.role == "admin" else []
    except Refused as exc:
        return [Finding(check=_NAME, severity="fault", found=str(exc))]
    deviations = [_finding(declared, each) for each in found if each.field not in _TOLD_ELSEWHERE]
    if deviations:
        return deviations
    words = f"{declared.name} is as declared, and holds {messages:,} messages"
    return [Finding(check=_NAME, severity="ok", found=words)]


async def _taken(patient: Patient) -> Finding:
    """Look whether what is published is stored: a publisher may see no more."""
    declared = patient.settings.stream
    subject = f"{declared.prefix}.doctor"
    name = await taker(patient.connection, subject)
    if name == declared.name:
        return Finding(check=_NAME, severity="ok", found=f"{name} takes {subject}")
    return _missing(f"{subject} is taken by {name or 'no stream'}, not by {declared.name}")


def _missing(found: str) -> Finding:
    return Finding(check=_NAME, severity="fault", found=found, remedy=MAKE_STREAMS)


def _finding(declared: StreamDeclaration, deviation: Deviation) -> Finding:
    if deviation.weight == "lacking":
        found = f"{declared.name}: {deviation.field} is off: {deviation.meaning}"
        return Finding(check=_NAME, severity="warning", found=found, remedy="noetl-events stream ensure --upgrade")
    setting = setting_of(declared.kind, deviation.field)
    # What is set to something else is a fault: one of the two is not what was meant.
    severity = "fault" if setting and deviation.weight == "weaker" else _SEVERITIES[deviation.weight]
    return Finding(
        check=_NAME,
        severity=severity,
        found=f"{declared.name}: {deviation}",
        remedy=f"nats stream edit {declared.name}{f', or set {setting.environ} to what is there' if setting else ''}",
    )
