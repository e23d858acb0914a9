"""
Processes of ours that may die: forked from a server that has imported the command line already, so that one that was
killed is back soon.
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


class Member:
    """A process that is started again after a kill, each time as *target* with the arguments *make* returns."""

    def __init__(self, name: str, target: Callable[..., None], make: Callable[[int], tuple[Any, ...]]) -> None:
        self.name = name
        self.starts = 0
        self.died: list[int] = []
        self._target = target
        self._make = make
        self._process: ForkServerProcess | None = None

    def start(self) -> None:
        """Start it."""
        arguments = (self._target, self._make(self.starts))
        self.starts += 1
        self._process = _processes.Process(target=_live, args=arguments, name=self.name)
        self._process.start()

    def kill(self) -> None:
        """Kill it (-9), and return when it is gone."""
        self._note_death()
        self._living.kill()
        self._living.join()
        self._process = None

    def pause(self) -> None:
        """Halt it."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def revive(self) -> None:
        """Start it again if it has ended by itself, which it should not."""
        if self._process is None or self._note_death():
            self.start()

    def leave(self) -> None:
        """Ask it to end (SIGTERM), and return when it has, or was killed after a minute."""
        if self._process is not None and not self._note_death():
            self._process.terminate()
            self._process.join(_LEAVING)
            if self._process.exitcode != 0:
                self.died.append(-999 if self._process.exitcode is None else self._process.exitcode)
            self.end()

    def end(self) -> None:
        """Kill it for good, in whatever state it is."""
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
    """Die as the campaign dies, however it does; its server of forks lives as long as we do."""
    campaign = multiprocessing.parent_process()
    assert campaign is not None
    campaign.join()
    os.kill(os.getpid(), signal.SIGKILL)
