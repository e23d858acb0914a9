"""Whether others on the same server can read what is answered to this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consumers.doctor.finding import Finding
from noetl_events.jetstream.options import ConnectOptions

if TYPE_CHECKING:
    from consumers.doctor.patient import Patient

_NAME: Final = "inbox"
_SHARED: Final = ConnectOptions().inbox_prefix


async def check_inbox(patient: Patient) -> list[Finding]:
    """Compare the prefix with the one that every client has by default."""
    options = patient.settings.connect
    if options.inbox_prefix != _SHARED:
        return [Finding(check=_NAME, severity="ok", found=f"replies come to {options.inbox_prefix}.>")]
    if not _says_who(options):
        return [Finding(check=_NAME, severity="ok", found="shared, and so is everything: we come without credentials")]
    return [
        Finding(
            check=_NAME,
            severity="warning",
            found=f"replies come to {_SHARED}.>, as those of every client: other users may read ours, and we theirs",
            remedy=f"set NATS_INBOX_PREFIX={_SHARED}_{patient.role}, and allow this user no other inbox",
        )
    ]


def _says_who(options: ConnectOptions) -> bool:
    given = (options.user, options.token, options.token_file, options.credentials, options.nkey_seed, options.tls_cert)
    return any(given) or any(url.has_user for url in options.urls)
