"""
The live page with executions running, as pictures for the documentation.

    python -m tests.gateway.pictures [FOLDER]

Needs Chromium and its driver.  Writes `live-light.png` and `live-dark.png`.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cli.command import start
from tests.cli.graves import bury
from tests.gateway.browser import browsing
from tests.gateway.live_gateway import LiveGateway
from tests.gateway.page_reader import EXECUTION, Page

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAYBOOKS = ("load_calendar", "amadeus_offers", "http_to_postgres", "score_leads", "export_ledger", "sync_users")
STEPS = ("start", "fetch", "transform", "validate", "load", "end")
SECONDS, TICK = 40, 0.05
SHOWN = 16
FOLDER = Path(__file__).parents[2] / "docs" / "images"


class Run:
    """One execution, a step further each time somebody asks."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.execution = EXECUTION + number * 7_919
        self._chance, self._events = chance, self._happen(PLAYBOOKS[number % len(PLAYBOOKS)])

    def next(self) -> dict[str, Any] | None:
        """Return what happens next, `None` when all has happened or nothing does yet."""
        happened = next(self._events, None)
        return happened and happened | {"execution_id": self.execution, "created_at": datetime.now(UTC).isoformat()}

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


def play(gateway: LiveGateway) -> list[Run]:
    """Let executions start and run for `SECONDS`, and return them."""
    chance = random.Random(7)
    runs: list[Run] = []
    for tick in range(int(SECONDS / TICK)):
        if tick % 8 == 0:
            runs.append(Run(len(runs), chance))
        gateway.emit(*[happened for run in runs if (happened := run.next())])
        time.sleep(TICK)
    return runs


@contextmanager
def projecting(gateway: LiveGateway, scratch: Path) -> Iterator[None]:
    """Run a projector beside it."""
    files = [Path(os.devnull), scratch / "projector.log", scratch / "projector.log"]
    projector = start(["project", "--to", f"sqlite:///{scratch}/events.db"], gateway.server.url, files)
    yield
    projector.terminate()
    projector.join()


def main(folder: Path) -> None:
    """Take the pictures."""
    with tempfile.TemporaryDirectory() as scratch, LiveGateway(Path(scratch)) as gateway:
        bury(
            gateway.server,
            (b'{"execution_id": "382100255539228673", "status": "RUNNING"}', "malformed", "event_type: missing"),
            (b'{"event_type": "step.exit"', "malformed", "not JSON: input ended after 26 bytes"),
        )
        gateway.forget(2)
        with projecting(gateway, Path(scratch)), browsing(Path(scratch) / "profile") as browser:
            page = Page(browser, gateway.url)
            page.live()
            runs = play(gateway)
            page.click(f"#runs tr[data-key='{runs[-SHOWN].execution}']")
            for scheme in ("light", "dark"):
                feature = {"name": "prefers-color-scheme", "value": scheme}
                browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
                time.sleep(0.5)
                browser.save_screenshot(str(folder / f"live-{scheme}.png"))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
