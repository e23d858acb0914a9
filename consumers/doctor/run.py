"""Run all checks one after the other, each with a timeout; no check changes anything."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from consumers.doctor.check import Finding
from consumers.doctor.destinations import check_plugins
from consumers.doctor.nats import (
    check_clock,
    check_inbox,
    check_jetstream,
    check_reachability,
    check_rights,
    check_tls,
)
from consumers.doctor.stream import (
    check_consumers,
    check_dead_letters,
    check_discard,
    check_duplicates,
    check_durability,
    check_retention,
    check_stream,
)
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.sink import SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from consumers.doctor.check import CheckContext, Severity

_LIMIT: Final = 10.0


async def _check_postgres(context: CheckContext) -> list[Finding]:
    from consumers.doctor.postgres import check_postgres

    return await check_postgres(context)


class _Check(NamedTuple):
    name: str
    run: Callable[[CheckContext], Awaitable[list[Finding]]]
    asks_nats: bool = True
    unless: str = ""
    """Reason to skip the later NATS checks unless this check is ok; empty if they do not depend on it."""


_CHECKS: Final = (
    _Check("reachability", check_reachability, unless="NATS cannot be reached"),
    _Check("jetstream", check_jetstream, unless="JetStream does not answer"),
    _Check("tls", check_tls, asks_nats=False),
    _Check("inbox", check_inbox, asks_nats=False),
    _Check("permissions", check_rights),
    _Check("clock", check_clock),
    _Check("stream", check_stream),
    _Check("discard", check_discard),
    _Check("retention", check_retention),
    _Check("duplicates", check_duplicates),
    _Check("consumer", check_consumers),
    _Check("dead letters", check_dead_letters),
    _Check("durability", check_durability, asks_nats=False),
    _Check("postgres", _check_postgres, asks_nats=False),
    _Check("plug-ins", check_plugins, asks_nats=False),
)


async def examine(context: CheckContext, *, limit: float = _LIMIT) -> list[Finding]:
    """
    Return the findings of every check.

    A check that fails, or takes longer than *limit* seconds, is "unknown"; a "fault" if later checks depend on it.
    """
    findings: list[Finding] = []
    missing = ""
    for check in _CHECKS:
        if missing and check.asks_nats:
            findings.append(Finding(check=check.name, severity="unknown", found=missing))
            continue
        found = await _run_in_time(check, context, limit)
        findings += found
        if check.unless and any(finding.severity != "ok" for finding in found):
            missing = check.unless
    return findings


async def _run_in_time(check: _Check, context: CheckContext, limit: float) -> list[Finding]:
    severity: Severity = "fault" if check.unless else "unknown"
    try:
        async with asyncio.timeout(limit):
            return await check.run(context)
    except TimeoutError:
        return [Finding(check=check.name, severity=severity, found=f"no answer within {limit:g} s")]
    except ModuleNotFoundError as exc:
        found, separator, extra = str(exc).partition("; pip install ")
        found, extra = (found, extra) if separator else (f"needs the module {exc.name}", "'noetl-events[all]'")
        return [Finding(check=check.name, severity=severity, found=found, remedy=f"pip install {extra}")]
    except ValueError as exc:
        return [Finding(check=check.name, severity="fault", found=str(exc), remedy="correct this setting or URL")]
    except (NatsUnavailable, SinkUnavailable, OSError) as exc:
        return [Finding(check=check.name, severity=severity, found=str(exc) or type(exc).__name__)]
