"""
Processes that may be killed: forked from a server that has already imported the command line, so a killed one
restarts quickly.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tests.cli import command

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import ForkServerProcess

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([command.__name__, "tests.faults.campaign.system"])
_LEAVING = 60.0


class Process:
    """A process that is started again after a kill, as *target* with the arguments that *make* returns."""

    def __init__(self, name: str, target: Callable[..., None], make: Callable[[int], tuple[Any, ...]]) -> None:
        self.name = name
        self.starts = 0
        self.died: list[int] = []
        self._target = target
        self._make = make
        self._process: ForkServerProcess | None = None

    def start(self) -> None:
        """Start the process."""
        arguments = (self._target, self._make(self.starts))
        self.starts += 1
        self._process = _processes.Process(target=_live, args=arguments, name=self.name)
        self._process.start()

    def kill(self) -> None:
        """Kill the process (-9), and return after its end."""
        self._note_death()
        self._living.kill()
        self._living.join()
        self._process = None

    def pause(self) -> None:
        """Pause the process."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the process."""
        self._signal(signal.SIGCONT)

    def revive(self) -> None:
        """Start the process again if it ended by itself, which is a failure."""
        if self._process is None or self._note_death():
            self.start()

    def leave(self) -> None:
        """Send SIGTERM, and return after the process ended, or was killed after a minute."""
        if self._process is not None and not self._note_death():
            self._process.terminate()
            self._process.join(_LEAVING)
            if self._process.exitcode != 0:
                self.died.append(-999 if self._process.exitcode is None else self._process.exitcode)
            self.end()

    def end(self) -> None:
        """Kill the process for good, in any state."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    @property
    def _living(self) -> ForkServerProcess:
        assert self._process is not None
        return self._process

    def _note_death(self) -> bool:
        code = self._living.exitcode
        if code is not None:
            self.died.append(code)
        return code is not None

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._living.pid or 0, number)


def _live(target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    target(*arguments)


def _die_with_parent() -> None:
    """End with the campaign, however that ends; otherwise the fork server would live on."""
    campaign = multiprocessing.parent_process()
    assert campaign is not None
    campaign.join()
    os.kill(os.getpid(), signal.SIGKILL)
