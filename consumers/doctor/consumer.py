"""A check that the consumers of a projector deliver every message, whole, to each puller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consumers.doctor.finding import Finding
from noetl_events.jetstream.consumer_config import remarks
from noetl_events.jetstream.consumers import require_consumer
from noetl_events.jetstream.errors import ConsumerDrift, ConsumerMissing, ServerTooOld

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consumers.doctor.patient import Patient
    from noetl_events.jetstream.consumers import ConsumerInfo
    from noetl_events.jetstream.declarations import ConsumerDeclaration

_NAME: Final = "consumer"


async def check_consumers(patient: Patient) -> list[Finding]:
    """Compare each, if this is a projector."""
    if patient.role != "projector":
        return []
    return [finding for declared in patient.work.consumers for finding in await _compare(patient, declared)]


async def _compare(patient: Patient, declared: ConsumerDeclaration) -> list[Finding]:
    try:
        info = await require_consumer(patient.connection, declared)
    except ConsumerMissing as exc:
        remedy = "start the projector, which creates it"
        return [Finding(check=_NAME, severity="warning", found=str(exc), remedy=remedy)]
    except ServerTooOld as exc:
        found, _, remedy = str(exc).partition(": ")
        return [Finding(check=_NAME, severity="fault", found=found, remedy=remedy)]
    except ConsumerDrift as exc:
        return [
            Finding(check=_NAME, severity="fault", found=f"{declared.name}: {difference}", remedy=exc.remedy)
            for difference in exc.differences
        ]
    warnings = [*_warnings(declared, info)]
    waiting = info.num_pending + info.num_ack_pending
    as_declared = "is read" if warnings else "is as declared"
    found = f"{declared.name} {as_declared}, {waiting:,} messages to go"
    return [*warnings, Finding(check=_NAME, severity="ok", found=found)]


def _warnings(declared: ConsumerDeclaration, info: ConsumerInfo) -> Iterator[Finding]:
    place = f"{declared.stream} {declared.name}"
    if info.paused:
        found = f"{declared.name} is paused by an operator, for another {info.pause_remaining / 1e9:,.0f} s"
        yield Finding(check=_NAME, severity="warning", found=found, remedy=f"nats consumer resume {place}")
    for field, sentence in remarks(declared, info.config).items():
        found = f"{declared.name}: {field}: {sentence}"
        remedy = f"nats consumer edit {place}, or leave it as it is"
        yield Finding(check=_NAME, severity="warning", found=found, remedy=remedy)
