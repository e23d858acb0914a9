"""The stop of a daemon: at once and with 0 when nothing is in flight, and the effect of a second signal."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest
import structlog

from consumers.daemon import SETTLED, UNSETTLED, run_until_signal, run_until_stopped
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing import eventually
from noetl_events.testing.server_process import free_port
from tests.cli.command import start
from tests.jetstream.listeners import listening

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess
    from pathlib import Path

    from noetl_events.testing.nats_server import NatsServer


class Busy:
    """A worker that never finishes."""

    def __init__(self, in_flight: int) -> None:
        self.in_flight = in_flight
        self.is_told = asyncio.Event()

    async def run(self) -> None:
        """Work."""
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Record the stop."""
        self.is_told.set()


@pytest.mark.parametrize(("in_flight", "code"), [(0, SETTLED), (3, UNSETTLED)])
async def test_second_signal_ends_at_once(in_flight: int, code: int) -> None:
    """A second signal ends the worker at once: with 1 and the count in flight, or with 0 if nothing is."""
    worker = Busy(in_flight)
    with structlog.testing.capture_logs() as logged:
        running = asyncio.create_task(run_until_signal(worker, deadline=lambda: 3_600.0))
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(worker.is_told.wait(), 180)
        os.kill(os.getpid(), signal.SIGTERM)

        assert await asyncio.wait_for(running, 180) == code
    assert logged[-1]["reason"] == "a second signal"
    assert logged[-1].get("messages", 0) == in_flight


async def test_deadline_ends_it() -> None:
    """Events in flight after the deadline are counted, with the reason."""
    with structlog.testing.capture_logs() as logged:
        running = asyncio.create_task(run_until_signal(Busy(2), deadline=lambda: 0.1))
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGINT)

        assert await asyncio.wait_for(running, 180) == UNSETTLED
    assert (logged[-1]["messages"], logged[-1]["reason"]) == (2, "the deadline")


async def test_work_is_cancelled_when_told() -> None:
    """Work without a stop method is cancelled at the first signal, and its own exceptions are raised."""
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    running = asyncio.create_task(run_until_stopped(work()))
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)

    assert await asyncio.wait_for(running, 180) is False
    assert ended.is_set()
    assert await run_until_stopped(asyncio.sleep(0)) is True


def daemon(folder: Path, url: str, *arguments: str) -> ForkServerProcess:
    """Start a daemon, with its log in *folder*."""
    (folder / "stdin").touch()
    (folder / "log").touch()
    # A daemon that waits for its deadline is still there when `leave` gives up.
    more = {"NOETL_LOG_FORMAT": "json", "NOETL_STOP_DEADLINE_SECS": "3600"}
    return start(arguments, url, [folder / "stdin", folder / "out", folder / "log"], more)


def arguments_of(name: str, folder: Path) -> tuple[str, ...]:
    """Return the arguments of the daemon *name*."""
    match name:
        case "serve":
            return "serve", "--listen", f"127.0.0.1:{free_port()}"
        case "standby":
            return "project", "--standby", "--to", f"sqlite:///{folder}/e.db", "--listen", "off"
        case "partitions":
            return "project", "--partitions", "2", "--to", f"sqlite:///{folder}/e.db", "--listen", "off"
        case _:
            pass
    return "project", "--to", f"sqlite:///{folder}/e.db", "--listen", "off"


async def leave(process: ForkServerProcess) -> None:
    """Send *process* SIGTERM, and return after its exit with 0."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    await asyncio.to_thread(process.join, 180)
    assert process.exitcode == 0


@pytest.mark.parametrize("name", ["project", "standby", "partitions", "serve"])
@pytest.mark.parametrize("peer", ["refused", "silent"])
async def test_stop_before_nats_was_reached(name: str, peer: str, tmp_path: Path) -> None:
    """A daemon that never reached NATS, refused or silent, exits at once with 0, and never logs resumed."""
    async with listening() as silent:
        url = "nats://127.0.0.1:1" if peer == "refused" else f"nats://{silent.host}"
        process = daemon(tmp_path, url, *arguments_of(name, tmp_path))
        log = tmp_path / "log"
        try:
            started = "listening" if name == "serve" else "started"
            await eventually(lambda: started in log.read_text(), timeout=180)
            if peer == "silent":
                await eventually(lambda: silent.connections)
            else:
                await eventually(lambda: "refuses the connection" in log.read_text(), timeout=180)

            await leave(process)
            assert "resumed" not in log.read_text()
            assert "Traceback" not in log.read_text()
        finally:
            process.kill()


async def test_stop_while_nats_is_away(tmp_path: Path, own_server: NatsServer) -> None:
    """An idle projector exits at once with 0 while NATS is unavailable."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        await ensure_stream(connection, StreamDeclaration())
    process = daemon(tmp_path, own_server.url, *arguments_of("project", tmp_path))
    log = tmp_path / "log"
    try:
        async with Connection(ConnectOptions(servers=own_server.url)) as connection:
            js = await connection.jetstream()
            await eventually(lambda: js.consumers_info(StreamDeclaration().name), timeout=180)
        await asyncio.to_thread(own_server.kill)
        await eventually(lambda: "connection.lost" in log.read_text(), timeout=180)

        await leave(process)
    finally:
        process.kill()
