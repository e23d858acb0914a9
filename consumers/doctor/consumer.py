"""Whether the projector's consumers are as declared, and give up on nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consumers.doctor.finding import Finding
from noetl_events.jetstream.errors import ConsumerMissing, TopologyDrift
from noetl_events.jetstream.topology import require_consumer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consumers.doctor.patient import Patient
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
    except TopologyDrift as exc:
        return [*_drift(declared, exc)]
    waiting = (info.num_pending or 0) + (info.num_ack_pending or 0)
    return [Finding(check=_NAME, severity="ok", found=f"{declared.name} is as declared, {waiting:,} messages to go")]


def _drift(declared: ConsumerDeclaration, drift: TopologyDrift) -> Iterator[Finding]:
    edit = f"nats consumer edit {declared.stream} {declared.name}"
    for field, wanted, actual in drift.differences:
        if field == "max_deliver":
            found = f"{declared.name}: max_deliver is {actual}: after that a message is given up and no longer counted"
            yield Finding(check=_NAME, severity="fault", found=found, remedy=f"{edit} --max-deliver=-1")
        else:
            found = f"{declared.name}: {field} is {actual!r}, declared {wanted!r}"
            remedy = f"change it with `{edit}`, or set the projector to what is there"
            yield Finding(check=_NAME, severity="fault", found=found, remedy=remedy)
