"""Commands that are stopped: at once, with 0 if nothing is in flight, otherwise with 1 and the count."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from consumers import logs
from noetl_events.envelope import encode
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sink import open_sink
from noetl_events.sinks.spool.sink import SpoolSink
from noetl_events.testing import eventually, make_events
from tests.cli.command import start
from tests.jetstream.listeners import listening

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

    from noetl_events.testing.nats_server import NatsServer


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """Return a pipe for standard input that stays open."""
    path = tmp_path / "stdin"
    os.mkfifo(path)
    return path


def command(pipe: Path, url: str, *arguments: str) -> tuple[ForkServerProcess, int]:
    """Start a command that reads *pipe*, and return it with the write end."""
    folder = pipe.parent
    process = start(arguments, url, [pipe, folder / "out", folder / "err"])
    return process, os.open(pipe, os.O_WRONLY)


async def leaves(process: ForkServerProcess, number: int = signal.SIGTERM) -> int | None:
    """Send *process* a signal, and return its exit code; None if it still runs after three minutes."""
    assert process.pid is not None
    os.kill(process.pid, number)
    await asyncio.to_thread(process.join, 180)
    return process.exitcode


def handles(process: ForkServerProcess, number: int) -> bool:
    """Return true if *process* has a handler for a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def text_of(path: Path) -> str:
    """Return the text in *path*, once there is any."""
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_emit_that_waits_for_input(number: int, pipe: Path, own_server: NatsServer) -> None:
    """Lines are stored as they arrive through the pipe; a stop with none in flight ends with 0."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        await ensure_stream(connection, StreamDeclaration())
        js = await connection.jetstream()

        async def stores() -> bool:
            return (await js.stream_info(StreamDeclaration().name)).state.messages == 3

        process, end = command(pipe, own_server.url, "emit", "-")
        try:
            os.write(end, b"".join(encode(event) + b"\n" for event in make_events(3)))
            await eventually(stores, timeout=180)

            assert await leaves(process, number) == 0
            assert "3" in text_of(pipe.parent / "out")
        finally:
            process.kill()
            os.close(end)


async def test_emit_that_waits_for_nats(pipe: Path) -> None:
    """A stop while NATS is unavailable ends at once with 1, and counts the events in flight."""
    process, end = command(pipe, "nats://127.0.0.1:1", "emit", "-", "--wait", "3600")
    try:
        os.write(end, b"".join(encode(event) + b"\n" for event in make_events(3)))
        await eventually(lambda: "sink.holding" in text_of(pipe.parent / "err"), timeout=180)

        assert await leaves(process) == 1
        assert "stopped with 3 events in flight; emit the input again from line 1" in text_of(pipe.parent / "err")
        assert "Traceback" not in text_of(pipe.parent / "err")
    finally:
        process.kill()
        os.close(end)


async def test_emit_without_input_and_without_nats(pipe: Path) -> None:
    """With no input read nothing is in flight, so a stop ends at once with 0."""
    process, end = command(pipe, "nats://127.0.0.1:1", "emit", "-", "--wait", "3600")
    try:
        await eventually(lambda: handles(process, signal.SIGTERM))
        await asyncio.sleep(1)

        assert await leaves(process) == 0
    finally:
        process.kill()
        os.close(end)


async def test_drain_of_a_spool_while_nats_is_away(pipe: Path, tmp_path: Path) -> None:
    """A stop ends the drain of a blocked spool at once, and the remaining events are counted."""
    folder = tmp_path / "spool"
    spool = SpoolSink(open_sink("nats://127.0.0.1:1"), folder, owns_inner=True, patience=0.0)
    await spool.emit_batch(make_events(5))
    await spool.aclose()
    async with listening(closes=True) as closing:
        arguments = ("spool", "drain", str(folder), "--to", f"nats://{closing.host}", "--wait", "3600")
        process, end = command(pipe, "nats://127.0.0.1:1", *arguments)
        try:
            await eventually(lambda: closing.connections)

            assert await leaves(process) == 1
            assert "5 events remain at the signal to stop" in text_of(tmp_path / "err")
        finally:
            process.kill()
            os.close(end)


def test_library_shows_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """An error that a library logs is a line with exception and place; with level debug also the traceback."""
    for level, shown in (("info", False), ("debug", True)):
        logs.configure(level, "json")
        try:
            raise LookupError("planted")  # noqa: TRY301  (the log needs a traceback)
        except LookupError as exc:
            logging.getLogger("nats.aio.client").error("nats: encountered error", exc_info=exc)
        printed = capsys.readouterr().err

        assert "planted" in printed
        assert ("Traceback" in printed or '"frames"' in printed) is shown
