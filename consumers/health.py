"""
Whether a projector lives, and whether it is of use now.

    waits for                       for longer than *stall_after*        else
    messages, NATS is away          alive, not ready: it tries again     alive, not ready
    messages, heartbeats heard      alive, ready: quiet, or standing by  alive, ready
    messages, heartbeats not heard  stalled                              alive, ready
    a consumer that was paused      alive, not ready: an operator ends it, or time does
    a consumer that was edited      alive, not ready: an operator puts it back
    the sink to answer              stalled                              alive, ready
    a sink that is away             alive, not ready: it tries again     alive, not ready
    dead letters, trials            stalled, unless NATS is away         alive, ready

A stream of which events may be lost, or that stores none, makes it not ready whatever it waits for.

Alive is a question of movement, never of lag: a projector with a million events to go is fine while it moves, and one
that is behind by ten and does not move is not.  To restart it helps against a stall, never against an outage.
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
    How a projector is.

    Args:
        alive: it moves, or has nothing to move.
        ready: besides, what comes now would be stored now.
        part: what is the matter if it is not ready: "nats", "consumer", "stream", "sink", "dead_letters",
            "trials" or "loop".
        reason: why, in words.

    """

    alive: bool = True
    ready: bool = True
    part: str = ""
    reason: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """
    How a process is.

    Args:
        alive: all its projectors are.
        ready: all its projectors are, and it is connected.
        connected: to NATS.
        projectors: each one's health, by the name of its consumer.

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
    heard: float,
    now: float,
    stall_after: float,
) -> Health:
    """
    Return how the projector with this *progress* is.

    Args:
        progress: of it.
        connected: whether NATS is there.
        trouble: why its consumer is not read now, if that is known; None while it is read.
        pause: seconds for which an operator has paused the consumer; 0 when it is not paused.
        heard: when the server last said anything to it, by `time.monotonic`.
        now: by the same clock.
        stall_after: seconds without movement that are a stall.

    """
    still = now - max(progress.moved, progress.resting_until)
    if still > stall_after and _must_move(progress, connected=connected, unheard=now - heard, limit=stall_after):
        reason = f"nothing has moved for {still:.0f} s"
        return Health(alive=False, ready=False, part=progress.attempting or "loop", reason=reason)
    if not connected:
        return Health(ready=False, part="nats", reason="not connected")
    if progress.holding:
        return Health(ready=False, part=progress.holding, reason=progress.reason[:_LONGEST_REASON])
    if trouble is not None:
        return Health(ready=False, part="consumer", reason=trouble or "not found yet, or not again")
    if pause:
        reason = f"paused by an operator, for another {pause:,.0f} s: nats consumer resume ends it"
        return Health(ready=False, part="consumer", reason=reason)
    return Health()


def _must_move(progress: Progress, *, connected: bool, unheard: float, limit: float) -> bool:
    """Return whether something should have happened: it is quiet for no good reason."""
    if progress.attempting == "sink":
        return True
    if progress.attempting == "nats":
        return connected and unheard > limit
    return connected


def report(
    projectors: Iterable[Projector], connection: Connection, *, now: float, stall_after: float, fault: str = ""
) -> Report:
    """
    Return how *projectors* of one process are; awaits nothing.

    Args:
        projectors: of the process.
        connection: to NATS.
        now: by `time.monotonic`.
        stall_after: seconds without movement that are a stall.
        fault: of a stream, for which events may be lost or are not stored; empty if there is none.

    """
    connected = connection.is_connected
    healths = {
        projector.consumer.name: health_of(
            projector.progress,
            connected=connected,
            trouble=None if projector.puller.is_reading else projector.puller.reason,
            pause=projector.puller.pause,
            heard=projector.puller.heard,
            now=now,
            stall_after=stall_after,
        )
        for projector in projectors
    }
    if words := connection.trouble:
        # What the server said when it closed the last connection may be said of this one in a moment.
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
    """Return *health* with the fault of a stream beside what else is the matter, of which it may be the cause."""
    if health.ready:
        return Health(ready=False, part="stream", reason=fault[:_LONGEST_REASON])
    half = _LONGEST_REASON // 2
    reason = f"{health.reason[: _LONGEST_REASON - min(len(fault), half)]}; {fault}"
    return structs.replace(health, reason=reason[:_LONGEST_REASON])
