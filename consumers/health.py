"""
Liveness and readiness of a projector.

    waits for                       for longer than *stall_after*        else
    messages, NATS is unavailable   alive, not ready: it retries         alive, not ready
    messages, heartbeats received   alive, ready: idle, or on standby    alive, ready
    messages, no heartbeats         stalled                              alive, ready
    a paused consumer               alive, not ready until an operator or the end of the pause resumes it
    an edited consumer              alive, not ready until an operator restores it
    a response of the sink          stalled                              alive, ready
    an unavailable sink             alive, not ready: it retries         alive, not ready
    dead letters, trials            stalled, unless NATS is unavailable  alive, ready

A stream that may lose events, or stores none, makes the projector not ready in every case.

Liveness depends on activity, never on lag: a projector with a lag of a million events is alive while it makes progress,
and one with a lag of ten and no progress is not.  A restart helps against a stall, never against an outage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import structs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from consumers.projector.progress import Progress
    from consumers.projector.projector import Projector
    from noetl_events.jetstream.connection import Connection

_LONGEST_REASON: Final = 600


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """
    The health of a projector.

    Args:
        alive: whether the projector makes progress, or has nothing to do.
        ready: whether it is alive and can store new events now.
        part: cause if it is not ready: "nats", "consumer", "stream", "sink", "dead_letters", "trials" or "loop".
        reason: reason in words.

    """

    alive: bool = True
    ready: bool = True
    part: str = ""
    reason: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """
    The health of a process.

    Args:
        alive: whether all of its projectors are alive.
        ready: whether all of its projectors are ready, and it is connected.
        connected: whether the process is connected to NATS.
        projectors: health of each projector, by the name of its consumer.

    """

    alive: bool
    ready: bool
    connected: bool
    projectors: dict[str, Health]


def health_of(
    progress: Progress,
    *,
    connected: bool,
    trouble: str | None,
    pause: float,
    last_arrival: float,
    now: float,
    stall_after: float,
) -> Health:
    """
    Return the health of the projector with this *progress*.

    Args:
        progress: progress of the projector.
        connected: whether NATS is connected.
        trouble: reason why the consumer is not read now; empty if unknown, None while it is read.
        pause: seconds until the end of an operator's pause of the consumer; 0 if it is not paused.
        last_arrival: time of the last message of the server to the puller, by `time.monotonic`.
        now: current time, by the same clock.
        stall_after: seconds without activity that count as a stall.

    """
    still = now - max(progress.last_activity, progress.retry_at)
    if still > stall_after and _must_be_active(
        progress, connected=connected, silence=now - last_arrival, limit=stall_after
    ):
        reason = f"no progress for {still:.0f} s"
        return Health(alive=False, ready=False, part=progress.waiting_for or "loop", reason=reason)
    if not connected:
        return Health(ready=False, part="nats", reason="not connected")
    if progress.holding:
        return Health(ready=False, part=progress.holding, reason=progress.reason[:_LONGEST_REASON])
    if trouble is not None:
        return Health(ready=False, part="consumer", reason=trouble or "not found yet, or not found again")
    if pause:
        reason = f"paused by an operator for another {pause:,.0f} s; end the pause with nats consumer resume"
        return Health(ready=False, part="consumer", reason=reason)
    return Health()


def _must_be_active(progress: Progress, *, connected: bool, silence: float, limit: float) -> bool:
    """Return whether the projector should have made progress, so that the pause in activity is a stall."""
    if progress.waiting_for == "sink":
        return True
    if progress.waiting_for == "nats":
        return connected and silence > limit
    return connected


def report(
    projectors: Iterable[Projector], connection: Connection, *, now: float, stall_after: float, fault: str = ""
) -> Report:
    """
    Return the health of the *projectors* of a process, without awaiting anything.

    Args:
        projectors: projectors of the process.
        connection: connection to NATS.
        now: current time, by `time.monotonic`.
        stall_after: seconds without activity that count as a stall.
        fault: fault of a stream that may lose events or stores none; empty if there is none.

    """
    connected = connection.is_connected
    healths = {
        projector.consumer.name: health_of(
            projector.progress,
            connected=connected,
            trouble=None if projector.puller.is_reading else projector.puller.reason,
            pause=projector.puller.pause,
            last_arrival=projector.puller.last_arrival,
            now=now,
            stall_after=stall_after,
        )
        for projector in projectors
    }
    if words := connection.trouble:
        # The server's reason for closing the last connection probably applies to the present one too.
        cut_off = Health(ready=False, part="nats", reason=words[:_LONGEST_REASON])
        healths = {
            name: cut_off if health.ready or health.part == "nats" else health for name, health in healths.items()
        }
    if fault:
        healths = {name: _with_fault(health, fault) for name, health in healths.items()}
    return Report(
        alive=all(health.alive for health in healths.values()),
        ready=connected and all(health.ready for health in healths.values()),
        connected=connected,
        projectors=healths,
    )


def _with_fault(health: Health, fault: str) -> Health:
    """Return *health* with the fault of a stream added to its reason, because the fault may be the cause."""
    if health.ready:
        return Health(ready=False, part="stream", reason=fault[:_LONGEST_REASON])
    half = _LONGEST_REASON // 2
    reason = f"{health.reason[: _LONGEST_REASON - min(len(fault), half)]}; {fault}"
    return structs.replace(health, reason=reason[:_LONGEST_REASON])
