"""
Screenshots of the live page with running executions, for the documentation.

    python -m tests.gateway.pictures [FOLDER]

Needs Chromium and its driver, and a minute.  Writes `live-light.png`, `live-dark.png` and `dead-letters.png`.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cli.command import start
from tests.cli.letters import publish_dead
from tests.gateway.browser import browsing
from tests.gateway.live_gateway import LiveGateway
from tests.gateway.page_reader import EXECUTION, Page, event

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAYBOOKS = ("load_calendar", "amadeus_offers", "http_to_postgres", "score_leads", "export_ledger", "sync_users")
STEPS = ("start", "fetch", "transform", "validate", "load", "end")
SECONDS, TICK = 46, 0.05
# The projector is paused meanwhile, and its lag grows.
BEHIND = range(22, 31)
REJECTED = event(step="http_to_postgres_" * 5, worker_id="worker-7d9f", context={"rows": 4_711})
FOLDER = Path(__file__).parents[2] / "docs" / "images"


class Run:
    """An execution that advances a step with each call."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.execution = EXECUTION + number * 7_919
        self.failed = False
        self._chance, self._events = chance, self._happen(PLAYBOOKS[number % len(PLAYBOOKS)])

    def next(self) -> dict[str, Any] | None:
        """Return the next event, `None` at the end or while none is due."""
        happened = next(self._events, None)
        if happened is None:
            return None
        self.failed |= happened["event_type"] == "playbook.failed"
        return happened | {"execution_id": self.execution, "created_at": datetime.now(UTC).isoformat()}

    def _happen(self, playbook: str) -> Iterator[dict[str, Any] | None]:
        fails = self._chance.choice(STEPS[1:-1]) if self._chance.random() < 0.15 else ""
        yield _event("playbook.initialized", playbook, "STARTED", {"path": f"examples/{playbook}"})
        for step in STEPS:
            yield _event("step.enter", step, "RUNNING", {"attempt": 1, "worker": self._chance.randrange(8)})
            yield from [None] * self._chance.randrange(4, 60)
            if step == fails:
                yield _event("call.error", step, "FAILED", {"error": "HTTP 502 from upstream", "attempt": 3})
                yield _event("playbook.failed", playbook, "FAILED", None)
                return
            yield _event("step.exit", step, "COMPLETED", {"rows": self._chance.randrange(5_000)})
        yield _event("playbook.completed", playbook, "COMPLETED", None)


def _event(event_type: str, step: str, status: str, context: Any) -> dict[str, Any]:
    return {"event_type": event_type, "step": step, "status": status, "context": context, "worker_id": "worker-7d9f"}


def play(gateway: LiveGateway, projector: int) -> list[Run]:
    """Start executions and advance them for `SECONDS`, and return them; *projector* is a process id."""
    chance = random.Random(7)
    runs: list[Run] = []
    for tick in range(int(SECONDS / TICK)):
        # The load follows a wave of a minute, so that the plots show something.
        if tick % round(10 + 7 * math.sin(tick * TICK / 6)) == 0:
            runs.append(Run(len(runs), chance))
        os.kill(projector, signal.SIGSTOP if int(tick * TICK) in BEHIND else signal.SIGCONT)
        gateway.emit(*[happened for run in runs if (happened := run.next())])
        time.sleep(TICK)
    return runs


@contextmanager
def projecting(gateway: LiveGateway, scratch: Path) -> Iterator[int]:
    """Run a projector, and yield its process id."""
    files = [Path(os.devnull), scratch / "projector.log", scratch / "projector.log"]
    projector = start(["project", "--to", f"sqlite:///{scratch}/events.db"], gateway.server.url, files)
    try:
        yield projector.pid or 0
    finally:
        projector.kill()
        projector.join()


def main(folder: Path) -> None:
    """Take the pictures."""
    with tempfile.TemporaryDirectory() as scratch, LiveGateway(Path(scratch)) as gateway:
        publish_dead(
            gateway.server,
            (b'{"execution_id": "382100255539228673", "status": "RUNNING"}', "malformed", "event_type: missing"),
            (b'{"event_type": "step.exit"', "malformed", "not JSON: input ended after 26 bytes"),
            (json.dumps(REJECTED).encode(), "rejected", "step: value too long for type character varying(64)"),
        )
        gateway.forget(3)
        with projecting(gateway, Path(scratch)) as projector, browsing(Path(scratch) / "profile") as browser:
            page = Page(browser, gateway.url)
            page.live()
            runs = play(gateway, projector)
            for scheme, shown in (("light", runs[-10]), ("dark", [run for run in runs[:-4] if run.failed][-1])):
                page.run("location.hash = arguments[0]", str(shown.execution))
                feature = {"name": "prefers-color-scheme", "value": scheme}
                browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
                page.shows("#one-id", str(shown.execution))
                time.sleep(0.5)
                browser.save_screenshot(str(folder / f"live-{scheme}.png"))
            page.keys("d")
            page.shows("#letter-reason", "too long")
            browser.save_screenshot(str(folder / "dead-letters.png"))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
