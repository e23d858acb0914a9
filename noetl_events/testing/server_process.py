"""
A server as a child process on loopback: how its life begins, how it is watched, and how it ends.

The child has a process group of its own, so a Ctrl-C reaches only us, and we stop it in our order.  It is stopped at
the latest when the interpreter exits, and killed when the interpreter is.
"""

from __future__ import annotations

import atexit
import itertools
import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

START_TIMEOUT: Final = 120.0
_STOP_TIMEOUT: Final = 10.0
_POLL: Final = 0.01
_TAIL: Final = 2_000

# Below the ports that systems lend to outgoing connections: while a server is down, such a connection could take its
# port, and one to the dead port itself could even reach itself.
_PORTS: Final = range(20_000, 32_000)


class ServerMissing(FileNotFoundError):
    """There is no server to start; the message says what to install."""


class ServerFailed(RuntimeError):
    """A server did not start, or does not do what it was asked; the message ends with its log."""


class ServerProcess(ABC):
    """
    One server that keeps its port and its files over restarts.

    As a context manager it starts on entry and terminates on exit.  Terminating and killing a server that does not
    run, and starting one that does, do nothing.
    """

    _soft: ClassVar = signal.SIGTERM

    def __init__(self, *, log_file: Path, port: int | None) -> None:
        self.port: Final = port or free_port()
        self._log_file = log_file
        self._started_at = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    @property
    def pid(self) -> int:
        """
        Of the running process.

        Raises:
            ServerFailed: it does not run.

        """
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether the process is alive, paused or not."""
        if self._process is not None and self._process.poll() is None:
            return True
        # Asking has released its pid, which may soon be that of a stranger.
        self._dismiss_guard()
        return False

    @property
    def log(self) -> str:
        """Everything it has logged, over all its starts."""
        return self._log_since(0)

    def start(self) -> None:
        """
        Start and return once it serves.

        Raises:
            ServerFailed: it ended, or did not serve within thirty seconds; it does not run any more.

        """
        if self.running:
            return
        self.kill()
        self._launch()
        try:
            self.wait_until(self._serves, "does not serve")
        except BaseException:
            self.kill()
            raise

    def terminate(self) -> None:
        """Stop in order, or by force after ten seconds."""
        if (process := self._process) is None:
            return
        process.send_signal(self._soft)
        # A paused process takes no other signal until it goes on.
        with suppress(ServerFailed):
            self.resume()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT)
        self.kill()

    def kill(self) -> None:
        """Stop as a crash does, and return once it is gone."""
        if (process := self._process) is None:
            return
        process.kill()
        process.wait()
        self._process = None
        self._dismiss_guard()
        atexit.unregister(self.terminate)

    def restart(self) -> None:
        """Stop in order if it runs, and start again on the same port and files."""
        self.terminate()
        self.start()

    def pause(self) -> None:
        """Halt the process: its connections stay open, and nobody answers."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        # Until then one of its threads may still answer.
        os.waitpid(process.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let a paused process go on."""
        self._running().send_signal(signal.SIGCONT)

    def wait_until(self, reached: Callable[[], bool], complaint: str) -> None:
        """
        Return once *reached* returns true.

        Raises:
            ServerFailed: the server ended before that, or it took thirty seconds; the message says *complaint*.

        """
        deadline = time.monotonic() + START_TIMEOUT
        while not reached():
            if not self.running or time.monotonic() > deadline:
                raise self._failure(complaint)
            time.sleep(_POLL)

    @abstractmethod
    def _launch(self) -> None:
        """Write what the server reads, and `_spawn` it."""

    @abstractmethod
    def _serves(self) -> bool:
        """Tell whether clients can use it."""

    def _spawn(self, *command: str | Path, **options: Any) -> None:
        with self._log_file.open("ab") as log:
            self._started_at = log.tell()
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0, **options
            )
        atexit.register(self.terminate)
        self._post_guard(self._process.pid)

    def _post_guard(self, pid: int) -> None:
        # A shell waits for the other end of a pipe to be closed, which the system does however we die.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; kill -s KILL "$1"', "guard", str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )

    def _dismiss_guard(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or not self.running:
            raise self._failure("does not run")
        return self._process

    def _failure(self, complaint: str) -> ServerFailed:
        return ServerFailed(f"{type(self).__name__} {complaint}; its log ends with:\n{self.log[-_TAIL:]}")

    def _log_since(self, offset: int) -> str:
        if not self._log_file.exists():
            return ""
        with self._log_file.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace")


def free_port() -> int:
    """Return a TCP port on loopback that nobody listens on, and that this process has not been given before."""
    return next(port for port in _candidates if _is_free(port))


def _walk() -> Iterator[int]:
    # The system's randomness: test runners seed the other one, and every process would start at the same port.
    first = random.SystemRandom().choice(_PORTS)
    return itertools.cycle([*range(first, _PORTS.stop), *range(_PORTS.start, first)])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: connections that are gone do not block their port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


# One walk for the whole process: two servers that have not started yet never get the same port.
_candidates: Final = _walk()
