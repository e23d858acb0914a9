"""Whether there is a place for what no destination takes, and for the notes on what kills a process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consumers.doctor.finding import MAKE_STREAMS, Finding
from noetl_events.jetstream.errors import Refused, StreamMissing
from noetl_events.jetstream.probing import taker
from noetl_events.jetstream.streams import find_stream

if TYPE_CHECKING:
    from consumers.doctor.patient import Patient

_NAME: Final = "dead letters"


async def check_dead_letters(patient: Patient) -> list[Finding]:
    """Ask who takes them, if this is a projector."""
    if patient.role != "projector":
        return []
    letters, trials, consumer = patient.work.dead_letters, patient.work.trials, patient.work.consumers[0]
    trial = f"{trials.prefix}.{consumer.stream}.{consumer.name}.doctor"
    return [
        await _look(patient, f"{letters.prefix}.doctor", letters.name),
        await _look(patient, trial, trials.name),
    ]


async def _look(patient: Patient, subject: str, wanted: str) -> Finding:
    name = await taker(patient.connection, subject)
    if name == wanted:
        return Finding(check=_NAME, severity="ok", found=f"{wanted} takes {subject}")
    try:
        await find_stream(patient.connection, wanted)
    except StreamMissing:
        pass
    except Refused as exc:
        return Finding(check=_NAME, severity="fault", found=str(exc))
    found = f"{subject} is taken by {name or 'no stream'}, not by {wanted}: what is to be kept there holds up the rest"
    return Finding(check=_NAME, severity="fault", found=found, remedy=MAKE_STREAMS)
