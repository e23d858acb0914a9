"""Whether our clock is that of NATS and of Postgres: ids are ordered by it, and `--since` is read by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from consumers.doctor.destinations import opened_postgres
from consumers.doctor.finding import Finding
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.probing import server_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from consumers.doctor.patient import Patient

_NAME: Final = "clock"
_TOLERATED: Final = 1.0
_FAULT: Final = 60.0


async def check_clock(patient: Patient) -> list[Finding]:
    """Ask each server what time it is."""
    findings = []
    try:
        stream = patient.settings.stream.name
        findings.append(await _compare(patient, "NATS", lambda: server_time(patient.connection, stream)))
    except NatsUnavailable as exc:
        findings.append(Finding(check=_NAME, severity="unknown", found=f"NATS: {exc}"))
    async for where, _, connection in opened_postgres(patient.to):

        async def ask(connection: Any = connection) -> float:
            return float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8"))

        findings.append(await _compare(patient, where, ask))
    return findings


async def _compare(patient: Patient, where: str, ask: Callable[[], Awaitable[float]]) -> Finding:
    before = patient.clock()
    theirs = await ask()
    after = patient.clock()
    # Its answer is from somewhere between: only what lies outside is a difference.
    skew = max(before - theirs, theirs - after, 0.0)
    if skew <= _TOLERATED:
        return Finding(check=_NAME, severity="ok", found=f"{where}: within {_TOLERATED:g} s of ours")
    return Finding(
        check=_NAME,
        severity="fault" if skew > _FAULT else "warning",
        found=f"{where}: {skew:.1f} s {'behind' if theirs < before else 'ahead of'} ours",
        remedy="synchronise both machines, as with chrony",
    )
