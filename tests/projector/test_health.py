"""Liveness and readiness of a projector: every case of the table at one moment of one clock."""

from __future__ import annotations

from typing import Any

import pytest

from consumers.health import Health, health_of
from consumers.projector.progress import Progress

NOW = 1_000.0
LIMIT = 60.0
LONG_AGO = NOW - 100
JUST_NOW = NOW - 1

ALIVE = Health()


def stalled(part: str) -> Health:
    """Return the health of a projector that has made no progress since `LONG_AGO` because of *part*."""
    return Health(alive=False, ready=False, part=part, reason="no progress for 100 s")


def away(part: str, reason: str) -> Health:
    """Return the health of a projector that is alive and waits for *part*."""
    return Health(ready=False, part=part, reason=reason)


@pytest.mark.parametrize(
    ("progress", "around", "expected"),
    [
        pytest.param({"last_activity": JUST_NOW, "pending": 1_000_000}, {}, ALIVE, id="a million behind and moving"),
        pytest.param({"last_activity": LONG_AGO, "waiting_for": "nats"}, {"last_arrival": JUST_NOW}, ALIVE, id="quiet"),
        pytest.param(
            {"last_activity": LONG_AGO, "waiting_for": "nats", "pending": 10},
            {"last_arrival": JUST_NOW},
            ALIVE,
            id="standing by, or the others have it all",
        ),
        pytest.param({"last_activity": NOW - LIMIT, "waiting_for": "sink"}, {}, ALIVE, id="a write as long as allowed"),
        pytest.param({"last_activity": LONG_AGO, "waiting_for": "sink"}, {}, stalled("sink"), id="a write that hangs"),
        pytest.param(
            {"last_activity": LONG_AGO, "waiting_for": "sink"},
            {"last_arrival": JUST_NOW},
            stalled("sink"),
            id="a write that hangs while the server answers",
        ),
        pytest.param(
            {"last_activity": LONG_AGO, "waiting_for": "sink"},
            {"connected": False},
            stalled("sink"),
            id="a write that hangs while NATS is away",
        ),
        pytest.param(
            {"last_activity": LONG_AGO, "waiting_for": "sink", "holding": "sink", "reason": "gone"},
            {},
            stalled("sink"),
            id="a second attempt that hangs",
        ),
        pytest.param(
            {"last_activity": LONG_AGO, "waiting_for": "nats"},
            {"last_arrival": LONG_AGO},
            stalled("nats"),
            id="a silent server, not asked again",
        ),
        pytest.param(
            {"last_activity": LONG_AGO, "waiting_for": "dead_letters"},
            {},
            stalled("dead_letters"),
            id="a dead letter that hangs",
        ),
        pytest.param({"last_activity": LONG_AGO}, {"last_arrival": JUST_NOW}, stalled("loop"), id="between two parts"),
        pytest.param(
            {"last_activity": JUST_NOW, "waiting_for": "sink", "holding": "sink", "reason": "maintenance"},
            {},
            away("sink", "maintenance"),
            id="the sink is away",
        ),
        pytest.param(
            {
                "last_activity": LONG_AGO,
                "retry_at": NOW + 500,
                "waiting_for": "sink",
                "holding": "sink",
                "reason": "maintenance",
            },
            {},
            away("sink", "maintenance"),
            id="the sink said when to come again",
        ),
        pytest.param(
            {"last_activity": JUST_NOW, "holding": "sink", "reason": "x" * 1_000},
            {},
            away("sink", "x" * 600),
            id="a long reason",
        ),
        pytest.param(
            {"last_activity": JUST_NOW, "waiting_for": "nats", "holding": "nats", "reason": "cannot connect"},
            {"connected": False},
            away("nats", "not connected"),
            id="NATS is away",
        ),
        pytest.param(
            {"last_activity": LONG_AGO, "waiting_for": "nats"},
            {"connected": False, "last_arrival": LONG_AGO},
            away("nats", "not connected"),
            id="NATS is away for long",
        ),
        pytest.param(
            {"last_activity": LONG_AGO, "waiting_for": "dead_letters"},
            {"connected": False},
            away("nats", "not connected"),
            id="NATS is away while burying",
        ),
        pytest.param(
            {"last_activity": JUST_NOW, "holding": "nats", "reason": "consumer x: no such stream"},
            {},
            away("nats", "consumer x: no such stream"),
            id="the stream is gone",
        ),
        pytest.param(
            {"last_activity": JUST_NOW},
            {"trouble": ""},
            away("consumer", "not found yet, or not found again"),
            id="starting",
        ),
        pytest.param(
            {"last_activity": JUST_NOW},
            {"trouble": "409 Consumer is push based"},
            away("consumer", "409 Consumer is push based"),
            id="refused",
        ),
        pytest.param(
            {"last_activity": LONG_AGO, "waiting_for": "nats"},
            {"pause": 3_600.0, "last_arrival": JUST_NOW},
            away("consumer", "paused by an operator for another 3,600 s; end the pause with nats consumer resume"),
            id="paused",
        ),
    ],
)
def test_health(progress: dict[str, Any], around: dict[str, Any], expected: Health) -> None:
    """Liveness follows progress, never lag; readiness names the missing dependency."""
    given = {"connected": True, "trouble": None, "pause": 0.0, "last_arrival": LONG_AGO} | around

    assert health_of(Progress(**progress), now=NOW, stall_after=LIMIT, **given) == expected


def test_goes_on_with_the_counts_alone() -> None:
    """The next projector of a partition continues the counts, without the lag or the retry state of the last one."""
    progress = Progress(stored=5, pending=9, settled_ns=1)
    progress.hold("sink", "gone", 1.0)
    before = progress.last_activity

    progress.reset()

    assert (progress.stored, progress.pending, progress.settled_ns) == (5, 0, 0)
    assert (progress.holding, progress.reason) == ("", "")
    assert progress.last_activity > before


@pytest.mark.parametrize(
    ("progress", "oldest_ns", "expected"),
    [
        pytest.param({"settled_ns": 1}, 0, 0.0, id="all settled"),
        pytest.param({"settled_ns": 1, "pending": 3}, 4_000_000_000, 6.0, id="the oldest in hand counts"),
        pytest.param({}, 4_000_000_000, 6.0, id="before the first is settled"),
        pytest.param({"settled_ns": 3_000_000_000, "pending": 1}, 0, 7.0, id="none in hand"),
        pytest.param({"pending": 1}, 0, 0.0, id="standing by"),
        pytest.param({}, 11_000_000_000, 0.0, id="clocks that differ"),
    ],
)
def test_lag_in_seconds(progress: dict[str, Any], oldest_ns: int, expected: float) -> None:
    """The lag is the age of the oldest unacknowledged message."""
    assert Progress(**progress).lag_seconds(oldest_ns=oldest_ns, now_ns=10_000_000_000) == expected
