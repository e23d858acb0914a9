"""
Whether every sink that a distribution has registered can be loaded, and those of the destinations above all.

One of ours that lacks its extra, and that nobody uses, is as it should be.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

from consumers.doctor.finding import Finding

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from consumers.doctor.patient import Patient

_NAME: Final = "plug-ins"


async def check_plugins(patient: Patient) -> list[Finding]:
    """Load each."""
    known = entry_points(group="noetl_events.sinks")
    used = {url.partition(":")[0] for url in patient.to}
    findings = [
        Finding(
            check=_NAME,
            severity="fault",
            found=f"no installed sink has the scheme {scheme!r}",
            remedy=f"install the distribution that has it; known are {', '.join(sorted(known.names))}",
        )
        for scheme in sorted(used - known.names)
    ]
    findings += [finding for point in known if (finding := _load(point, used=point.name in used))]
    return findings or [Finding(check=_NAME, severity="ok", found=f"nothing is wrong with any of {len(known)} sinks")]


def _load(point: EntryPoint, *, used: bool) -> Finding | None:
    try:
        point.load()
    except Exception as exc:  # noqa: BLE001  (somebody else's module may raise anything)
        if not used and _lacks_extra(point, exc):
            return None
        return Finding(
            check=_NAME,
            severity="fault" if used else "warning",
            found=f"{point.name}: {point.value} cannot be loaded: {str(exc) or type(exc).__name__}",
            remedy=_remedy(point, exc),
        )
    return None


def _lacks_extra(point: EntryPoint, exc: Exception) -> bool:
    return isinstance(exc, ModuleNotFoundError) and point.dist is not None and point.dist.name == "noetl-events"


def _remedy(point: EntryPoint, exc: Exception) -> str:
    if _lacks_extra(point, exc):
        return "pip install 'noetl-events[all]'"
    return f"install another version of {point.dist.name if point.dist else point.module}, or remove it"
