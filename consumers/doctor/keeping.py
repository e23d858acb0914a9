"""Whether the stream keeps what it has for as long as somebody may still need it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consumers.doctor.finding import Finding
from noetl_events.jetstream.topology import show_stream

if TYPE_CHECKING:
    from consumers.doctor.patient import Patient

_HOUR: Final = 3_600.0


async def check_discard(patient: Patient) -> list[Finding]:
    """Look what a full stream does: it must refuse, not drop what nobody has stored yet."""
    config = (await show_stream(patient.connection, patient.settings.stream.name)).config
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


async def check_retention(patient: Patient) -> list[Finding]:
    """Compare how long messages are kept with the outage to survive."""
    name = patient.settings.stream.name
    kept = (await show_stream(patient.connection, name)).config.max_age or 0.0
    if not kept or kept >= patient.outage:
        found = f"messages are kept {_hours(kept) if kept else 'for ever'}"
        return [Finding(check="retention", severity="ok", found=found)]
    remedy = f"nats stream edit {name} --max-age={patient.outage:.0f}s, and NOETL_EVENT_STREAM_RETENTION_SECS likewise"
    found = f"messages are kept {_hours(kept)}, less than an outage of {_hours(patient.outage)}"
    return [Finding(check="retention", severity="fault", found=found, remedy=remedy)]


async def check_duplicates(patient: Patient) -> list[Finding]:
    """Compare how long the stream remembers ids with how long a spool may send them again."""
    name = patient.settings.stream.name
    window = (await show_stream(patient.connection, name)).config.duplicate_window or 0.0
    if window >= patient.replay_window:
        found = f"ids are remembered {window:,.0f} s, a spool's {patient.replay_window:,.0f} s or longer"
        return [Finding(check="duplicates", severity="ok", found=found)]
    return [
        Finding(
            check="duplicates",
            severity="warning",
            found=f"ids are remembered {window:,.0f} s, and a spool sends again what is {patient.replay_window:,.0f} s "
            "old: then the stream has events twice, the destination once",
            remedy=f"nats stream edit {name} --dupe-window={patient.replay_window:.0f}s, and "
            "NOETL_EVENT_STREAM_DEDUP_SECS likewise",
        )
    ]


def _hours(seconds: float) -> str:
    return f"{seconds / _HOUR:,.1f} h"
