"""
Checks of the destinations: each sink can be loaded, and each Postgres can be opened by its sink.

An unused sink of this project without its extra is not reported.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

from consumers.doctor.check import Finding
from noetl_events.jetstream.connect.servers import redacted
from noetl_events.sink import SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from importlib.metadata import EntryPoint

    from consumers.doctor.check import CheckContext
    from consumers.sinks.postgres import PostgresSink

_SCHEMES = ("postgres", "postgresql")


def postgres_sinks(urls: Iterable[str]) -> Iterator[tuple[str, PostgresSink]]:
    """Yield the Postgres sinks with their redacted URLs; raises ValueError for an invalid URL."""
    for url in urls:
        if url.partition(":")[0] in _SCHEMES:
            from consumers.sinks.postgres import PostgresSink

            yield redacted(url), PostgresSink.from_url(url)


async def opened_postgres(urls: Iterable[str]) -> AsyncIterator[tuple[str, PostgresSink, Any]]:
    """Yield the reachable Postgres sinks, each with a connection that is closed afterwards."""
    for where, sink in postgres_sinks(urls):
        with suppress(SinkUnavailable):
            connection = await sink.connect()
            try:
                yield where, sink, connection
            finally:
                connection.terminate()


_NAME: Final = "plug-ins"


async def check_plugins(context: CheckContext) -> list[Finding]:
    """Load every sink plug-in."""
    known = entry_points(group="noetl_events.sinks")
    used = {url.partition(":")[0] for url in context.to}
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
    return findings or [Finding(check=_NAME, severity="ok", found=f"all {len(known)} sinks can be loaded")]


def _load(point: EntryPoint, *, used: bool) -> Finding | None:
    try:
        point.load()
    except Exception as exc:  # noqa: BLE001  (a module of another project may raise any error)
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
