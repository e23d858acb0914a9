"""Whether NATS is there and takes us."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consumers.doctor.finding import Finding
from noetl_events.jetstream.errors import NatsUnavailable

if TYPE_CHECKING:
    from consumers.doctor.patient import Patient

_NAME: Final = "reachability"
_REMEDIES: Final = {
    "authorization": "set NATS_USER and NATS_PASSWORD, NATS_TOKEN, NATS_CREDS or NATS_NKEY_SEED as the server has them",
    "certificate": "set NATS_TLS_CA, and NATS_TLS_CERT with NATS_TLS_KEY if the server asks for ours",
    "ssl": "set NATS_TLS_CA, and NATS_TLS_CERT with NATS_TLS_KEY if the server asks for ours",
}


async def check_reachability(patient: Patient) -> list[Finding]:
    """Connect."""
    where = ", ".join(map(str, patient.settings.connect.urls))
    try:
        version = (await patient.connection.client()).connected_server_version
    except OSError as exc:
        # A file of the settings; the address is looked at by the connection, which says `NatsUnavailable`.
        return [Finding(check=_NAME, severity="fault", found=str(exc), remedy="correct this setting, or the file")]
    except NatsUnavailable as exc:
        return [Finding(check=_NAME, severity="fault", found=str(exc), remedy=_remedy(str(exc)))]
    found = f"nats-server {version.major}.{version.minor}.{version.patch} at {where}"
    return [Finding(check=_NAME, severity="ok", found=found)]


def _remedy(reason: str) -> str:
    matching = (remedy for word, remedy in _REMEDIES.items() if word in reason.lower())
    return next(matching, "start nats-server there, or set NATS_URL")
