"""Check that JetStream is enabled for the account of the credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consumers.doctor.check import Finding
from noetl_events.jetstream.errors import JetStreamOff, NatsUnavailable, PermissionDenied
from noetl_events.jetstream.publish.expected_stream import streams_of

if TYPE_CHECKING:
    from consumers.doctor.check import CheckContext

_NAME: Final = "jetstream"


async def check_jetstream(context: CheckContext) -> list[Finding]:
    """Send a request to the JetStream API."""
    subject = f"{context.settings.stream.prefix}.doctor"
    try:
        await streams_of(context.connection, subject)
    except PermissionDenied:
        return [Finding(check=_NAME, severity="ok", found="not checked: this role has no permission to ask")]
    except JetStreamOff as exc:
        found, _, remedy = str(exc).rpartition("; ")
        return [Finding(check=_NAME, severity="fault", found=found, remedy=remedy)]
    except NatsUnavailable as exc:
        remedy = "look at the servers with `nats server report jetstream`; an election ends by itself"
        return [Finding(check=_NAME, severity="fault", found=str(exc), remedy=remedy)]
    return [Finding(check=_NAME, severity="ok", found="available to the account of these credentials")]
