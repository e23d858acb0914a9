"""Whether the stream is there, and as it is declared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consumers.doctor.finding import Finding
from noetl_events.jetstream.errors import StreamMissing, TopologyDrift
from noetl_events.jetstream.probing import taker
from noetl_events.jetstream.topology import require_stream

if TYPE_CHECKING:
    from consumers.doctor.patient import Patient

_NAME: Final = "stream"
_VARIABLES: Final = {
    "max_age": "NOETL_EVENT_STREAM_RETENTION_SECS",
    "max_bytes": "NOETL_EVENT_STREAM_MAX_BYTES",
    "duplicate_window": "NOETL_EVENT_STREAM_DEDUP_SECS",
    "num_replicas": "NOETL_EVENT_STREAM_REPLICAS",
    "subject_transform": "NOETL_EVENT_STREAM_PARTITIONS",
}


async def check_stream(patient: Patient) -> list[Finding]:
    """Compare it."""
    declared = patient.settings.stream
    if patient.role == "publisher" and not patient.work.spool:
        return [await _taken(patient)]
    try:
        info = await require_stream(patient.connection, declared)
    except StreamMissing as exc:
        return [_missing(str(exc))]
    except TopologyDrift as exc:
        return [_drift(declared.name, *difference) for difference in exc.differences]
    found = f"{declared.name} is as declared, and holds {info.state.messages:,} messages"
    return [Finding(check=_NAME, severity="ok", found=found)]


async def _taken(patient: Patient) -> Finding:
    """Look whether what is published is stored: a publisher may see no more."""
    declared = patient.settings.stream
    subject = f"{declared.prefix}.doctor"
    name = await taker(patient.connection, subject)
    if name == declared.name:
        return Finding(check=_NAME, severity="ok", found=f"{name} takes {subject}")
    return _missing(f"{subject} is taken by {name or 'no stream'}, not by {declared.name}")


def _missing(found: str) -> Finding:
    return Finding(check=_NAME, severity="fault", found=found, remedy="noetl-events stream ensure")


def _drift(name: str, field: str, declared: object, actual: object) -> Finding:
    setting = f", or set {_VARIABLES[field]} to what is there" if field in _VARIABLES else ""
    return Finding(
        check=_NAME,
        severity="fault",
        found=f"{name}: {field} is {actual!r}, declared {declared!r}",
        remedy=f"change it with `nats stream edit {name}`{setting}",
    )
