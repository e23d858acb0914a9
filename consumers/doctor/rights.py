"""Whether the role has every right that its work takes, tried one by one without doing anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consumers.doctor.finding import Finding
from consumers.permissions import rights_of
from noetl_events.jetstream.probing import denied

if TYPE_CHECKING:
    from consumers.doctor.patient import Patient

_NAME: Final = "permissions"


async def check_rights(patient: Patient) -> list[Finding]:
    """Try every right."""
    rights = rights_of(patient.role, patient.work)
    reasons = {("publish", _sample(right.subject)): right for right in rights.publish}
    reasons |= {("subscribe", _sample(right.subject)): right for right in rights.subscribe}
    publish = [subject for verb, subject in reasons if verb == "publish"]
    subscribe = [(_sample(right.subject), right.queue) for right in rights.subscribe]
    missing = await denied(patient.connection, publish, subscribe)
    if not missing:
        found = f"the {patient.role} may do all of {len(reasons)} things"
        return [Finding(check=_NAME, severity="ok", found=found)]
    return [
        Finding(
            check=_NAME,
            severity="fault",
            found=f"may not {verb} {reasons[verb, subject].subject}: {reasons[verb, subject].why}",
            remedy=f"allow what `noetl-events permissions {patient.role}` prints, and reload nats-server",
        )
        for verb, subject in missing
    ]


def _sample(pattern: str) -> str:
    """Return a subject that *pattern* allows, and nobody uses."""
    return pattern.replace("*", "doctor").replace(">", "doctor")
