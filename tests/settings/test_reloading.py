"""Settings reloaded by a running daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from structlog.testing import capture_logs

from consumers.daemon import SETTLED, run_until_signal
from consumers.projector.service import Service
from consumers.settings import LiveSettings, ProjectorSettings, Settings, load
from noetl_events.sinks.memory import MemorySink
from noetl_events.testing import eventually
from noetl_events.testing.nats_server import NatsServer, free_port
from tests.settings.files import CANARY, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration


class Reloaded:
    """The settings of a file, and the log lines of their reloads."""

    def __init__(self, path: Path, text: str = "") -> None:
        self._path = write(path, text)
        self.live = LiveSettings(lambda: load({}, config=path))
        self.told: list[Settings] = []
        self.live.follow(self.told.append)

    def reload(self, text: str) -> list[dict[str, Any]]:
        """Return the log lines of a reload after the file became *text*."""
        write(self._path, text)
        with capture_logs() as lines:
            self.live.reload()
        return [dict(line) for line in lines]


def test_what_can_change_does(tmp_path: Path) -> None:
    """A reloadable setting changes with the reload, and its listeners are called; without a change none is."""
    file = Reloaded(tmp_path / "settings.toml", "[projector]\nbatch_size = 1\n")
    lines = file.reload("[projector]\nbatch_size = 2\n[log]\nlevel = 'debug'\n")
    again = file.reload("[projector]\nbatch_size = 2\n[log]\nlevel = 'debug'\n")

    assert [settings.projector.batch_size for settings in file.told] == [2]
    assert file.live.current.projector.batch_size == 2
    changed = {"projector.batch_size": "2", "log.level": "'debug'"}
    assert lines == [{"event": "settings.reloaded", "log_level": "info", "changed": changed}]
    assert again == [{"event": "settings.reloaded", "log_level": "info", "changed": {}}]


def test_what_wants_a_restart_is_named(tmp_path: Path) -> None:
    """A setting that needs a restart stays, and is logged at each reload until it is reverted; the others change."""
    file = Reloaded(tmp_path / "settings.toml")
    wanted = f"[nats]\ntoken = '{CANARY}'\n[projector]\nack_wait = 5\nstall_after = 5\n"
    first, second = file.reload(wanted), file.reload(wanted)
    back = file.reload("[projector]\nstall_after = 5\n")

    warning = {
        "event": "settings.restart_needed",
        "log_level": "warning",
        "settings": ["nats.token", "projector.ack_wait"],
    }
    assert (first[0], second[0]) == (warning, warning)
    assert CANARY not in f"{first}{second}"
    assert [line["event"] for line in back] == ["settings.reloaded"]
    assert (file.live.current.projector.ack_wait, file.live.current.projector.stall_after) == (30.0, 5.0)


def test_a_wrong_file_changes_nothing(tmp_path: Path) -> None:
    """A file that is unusable or missing logs an error with the fault; the settings stay."""
    file = Reloaded(tmp_path / "settings.toml", "[projector]\nbatch_size = 1\n")
    wrong = file.reload("[projector]\nbatch_size = 2\nstall_after = 'long'\n")
    broken = file.reload("[projector\n")
    (tmp_path / "settings.toml").unlink()
    with capture_logs() as gone:
        file.live.reload()

    assert [line["log_level"] for line in (*wrong, *broken, *gone)] == ["error"] * 3
    assert "projector.stall_after: 'long': Expected `float`" in wrong[0]["reason"]
    assert "cannot be read: No such file or directory" in gone[0]["reason"]
    assert file.live.current.projector.batch_size == 1
    assert file.told == []


async def test_a_projector_follows(connection: Connection, stream: StreamDeclaration) -> None:
    """A running service takes over the batch size and the stall timeout."""
    settings = Settings(connect=connection.options, stream=stream, projector=ProjectorSettings())
    service = Service(settings, connection, ["memory:"], durable="reloaded", opener=lambda _: MemorySink())
    changed = msgspec.structs.replace(settings, projector=ProjectorSettings(batch_size=7, stall_after=1e-9))
    [projector] = service.projectors
    assert service.report().alive
    service.follow(changed)

    assert projector.batch_size == 7
    await eventually(lambda: not service.report().alive or not service.report().connected)
    await service.aclose()


def _has(calls: list[int], count: int) -> bool:
    return len(calls) == count


def _says(log: Path, event: bytes) -> bool:
    return event in log.read_bytes()


class Idle:
    """An idle worker."""

    in_flight = 0

    def __init__(self) -> None:
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Wait for `stop`."""
        await self._stopped.wait()

    async def stop(self) -> None:
        """Make `run` return."""
        self._stopped.set()


async def test_a_hangup_is_no_end() -> None:
    """Each SIGHUP calls back and the daemon continues; SIGTERM ends it with the current deadline."""
    before = signal.getsignal(signal.SIGHUP)
    calls: list[int] = []
    deadlines = iter([10.0])
    running = asyncio.create_task(
        run_until_signal(Idle(), deadline=lambda: next(deadlines), on_hangup=lambda: calls.append(1))
    )
    await asyncio.sleep(0)
    for count in (1, 2):
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(partial(_has, calls, count))
    assert not running.done()
    os.kill(os.getpid(), signal.SIGTERM)

    assert await running == SETTLED
    assert signal.getsignal(signal.SIGHUP) == before
    assert next(deadlines, None) is None


@contextmanager
def daemon(name: str, config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the daemon *name* with the settings file *config* only."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("NATS_", "NOETL_"))}
    command = [sys.executable, "-m", "consumers", name, "--config", str(config)]
    with log.open("wb") as lines, subprocess.Popen(command, env=environ, stderr=lines) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_daemons_run_from_the_file_alone(own_server: NatsServer, tmp_path: Path) -> None:
    """`project` and `serve` need only a file, reload it on SIGHUP, and continue when it is wrong."""
    text = f"""
    nats.servers = "{own_server.url}"
    projector = {{ to = ["sqlite:///{tmp_path}/events.db"], listen = "off", durable = "from_file" }}
    gateway = {{ listen = "127.0.0.1:{free_port()}", token_file = "{write(tmp_path / "token", CANARY)}" }}
    log.level = """
    path = write(tmp_path / "settings.toml", text + '"info"')
    projected, served = tmp_path / "project.log", tmp_path / "serve.log"
    with daemon("project", path, projected) as first, daemon("serve", path, served) as second:
        # The daemon waits for its stream, which does not exist.
        for process, log, word in ((first, projected, b"holding"), (second, served, b"listening")):
            await eventually(lambda log=log, word=word: word in log.read_bytes())  # type: ignore[misc]
            assert process.poll() is None, log.read_text()
        for change, event in (('"error"', b"settings.reloaded"), ('"loud"', b"settings.refused")):
            write(path, text + change)
            for process, log in ((first, projected), (second, served)):
                process.send_signal(signal.SIGHUP)
                await eventually(partial(_says, log, event))
        for process in (first, second):
            process.terminate()
            assert await asyncio.to_thread(process.wait, 120) == 0

    assert CANARY.encode() not in projected.read_bytes() + served.read_bytes()
