"""
A server as a child process on loopback: its start, its supervision, and its end.

The child has its own process group, so Ctrl-C reaches only this process, which stops its servers in order.  The server
is stopped when the interpreter exits, and killed when the interpreter is killed.
"""

from __future__ import annotations

import atexit
import fcntl
import itertools
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

START_TIMEOUT: Final = 180.0
_STOP_TIMEOUT: Final = 10.0
_POLL: Final = 0.01
_TAIL: Final = 2_000

# These ports are below the range for outgoing connections.  While a server is down, such a connection could take its
# port, and one to the unused port could even connect to itself.
_PORTS: Final = range(20_000, 32_000)
# A process reserves this number of ports at a time.
_BLOCK: Final = 50


class ServerMissing(FileNotFoundError):
    """The server is not installed; the message says what to install."""


class ServerFailed(RuntimeError):
    """A server did not start, or did not carry out a request; the message ends with its log."""


class ServerProcess(ABC):
    """
    A server that keeps its port and its files over restarts.

    As a context manager it starts on entry and terminates on exit.  Terminating or killing a stopped server does
    nothing, and neither does starting a running one.
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
        Process id of the running server.

        Raises:
            ServerFailed: the server does not run.

        """
        return self._running().pid

    @property
    def running(self) -> bool:
        """True if the process exists, paused or not."""
        if self._process is not None and self._process.poll() is None:
            return True
        # The check has reaped the process, so its id may soon belong to another one: dismiss the guard.
        self._dismiss_guard()
        return False

    @property
    def log(self) -> str:
        """Log of the server, over all its starts."""
        return self._log_since(0)

    def start(self) -> None:
        """
        Start, and return once clients can connect.

        Raises:
            ServerFailed: the server ended, or was not ready within three minutes; it does not run any more.

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
        """Stop gracefully, or by force after ten seconds."""
        if (process := self._process) is None:
            return
        process.send_signal(self._soft)
        # A paused process handles other signals only after it is resumed.
        with suppress(ServerFailed):
            self.resume()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT)
        self.kill()

    def kill(self) -> None:
        """Kill the server, and return once it has ended."""
        if (process := self._process) is None:
            return
        process.kill()
        process.wait()
        self._process = None
        self._dismiss_guard()
        atexit.unregister(self.terminate)

    def restart(self) -> None:
        """Stop gracefully if it runs, and start again on the same port and files."""
        self.terminate()
        self.start()

    def pause(self) -> None:
        """Pause the process: its connections stay open, and get no answers."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        # Wait for the stop, because until then a thread may still answer.
        os.waitpid(process.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Resume a paused process."""
        self._running().send_signal(signal.SIGCONT)

    def wait_until(self, reached: Callable[[], bool], complaint: str) -> None:
        """
        Return once *reached* returns true.

        Raises:
            ServerFailed: the server ended before that, or three minutes passed; the message contains *complaint*.

        """
        deadline = time.monotonic() + START_TIMEOUT
        while not reached():
            if not self.running or time.monotonic() > deadline:
                raise self._failure(complaint)
            time.sleep(_POLL)

    @abstractmethod
    def _launch(self) -> None:
        """Write the server's files, and start it with `_spawn`."""

    @abstractmethod
    def _serves(self) -> bool:
        """Return True if clients can connect."""

    def _spawn(self, *command: str | Path, **options: Any) -> None:
        with self._log_file.open("ab") as log:
            self._started_at = log.tell()
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0, **options
            )
        atexit.register(self.terminate)
        self._post_guard(self._process.pid)

    def _post_guard(self, pid: int) -> None:
        # A shell waits for the end of a pipe, which the system closes however this process ends.
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
    """
    Return an unused TCP port on loopback that was not returned in this process before.

    No other process gets it from this function meanwhile, so a killed server can be started there again.
    """
    return next(port for port in _candidates if _is_free(port))


def _walk() -> Iterator[int]:
    # Use the system's randomness, because test runners seed `random`, and all processes would try the same blocks.
    blocks = list(range(_PORTS.start, _PORTS.stop, _BLOCK))
    random.SystemRandom().shuffle(blocks)
    ours: list[int] = []
    for block in blocks:
        if _is_reserved(block):
            ours.append(block)
            yield from _ports_of(block)
    # Each other block belongs to another process, so this process uses its own blocks again.
    for block in itertools.cycle(ours or blocks):
        yield from _ports_of(block)


def _ports_of(block: int) -> range:
    return range(block, min(block + _BLOCK, _PORTS.stop))


def _is_reserved(block: int) -> bool:
    """Reserve *block* for the rest of this process, and return False if another process has it."""
    folder = Path(tempfile.gettempdir()) / f"noetl-events-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(folder / str(block), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return False
    # The file stays open, because closing it would release the lock.
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Set the option that servers set, so ended connections do not block a port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


# All servers of the process share this sequence, so two that have not started yet never get the same port.
_candidates: Final = _walk()
