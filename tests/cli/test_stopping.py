"""Commands that are told to stop: at once, with 0 if nothing is in hand, else with 1 and what it left."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
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
    from pathlib import Path

    from noetl_events.testing.nats_server import NatsServer


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """Return a pipe for standard input, which stays open."""
    path = tmp_path / "stdin"
    os.mkfifo(path)
    return path


def command(pipe: Path, url: str, *arguments: str) -> tuple[ForkServerProcess, int]:
    """Start a command that reads *pipe*, and return it with the end that is written to."""
    folder = pipe.parent
    process = start(arguments, url, [pipe, folder / "out", folder / "err"])
    return process, os.open(pipe, os.O_WRONLY)


async def leaves(process: ForkServerProcess, number: int = signal.SIGTERM) -> int | None:
    """Send *process* a signal, and return its exit code; None if it is still there after ten seconds."""
    assert process.pid is not None
    os.kill(process.pid, number)
    await asyncio.to_thread(process.join, 10)
    return process.exitcode


def text_of(path: Path) -> str:
    """Return what is in *path*, as soon as it is there."""
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_emit_that_waits_for_input(number: int, pipe: Path, own_server: NatsServer) -> None:
    """What came through a pipe is stored as it comes; told to stop then, nothing is in hand, and it ends with 0."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        await ensure_stream(connection, StreamDeclaration())
        js = await connection.jetstream()

        async def stores() -> bool:
            return (await js.stream_info(StreamDeclaration().name)).state.messages == 3

        process, end = command(pipe, own_server.url, "emit", "-")
        try:
            os.write(end, b"".join(encode(event) + b"\n" for event in make_events(3)))
            await eventually(stores, timeout=30.0)

            assert await leaves(process, number) == 0
            assert "3" in text_of(pipe.parent / "out")
        finally:
            process.kill()
            os.close(end)


async def test_emit_that_waits_for_nats(pipe: Path) -> None:
    """Told to stop while NATS is away, it ends at once with 1, and counts what it has in hand."""
    process, end = command(pipe, "nats://127.0.0.1:1", "emit", "-")
    try:
        os.write(end, b"".join(encode(event) + b"\n" for event in make_events(3)))
        await eventually(lambda: "sink.holding" in text_of(pipe.parent / "err"), timeout=60.0)

        assert await leaves(process) == 1
        assert "stopped with 3 events in hand; emit the input again from line 1" in text_of(pipe.parent / "err")
        assert "Traceback" not in text_of(pipe.parent / "err")
    finally:
        process.kill()
        os.close(end)


async def test_emit_without_input_and_without_nats(pipe: Path) -> None:
    """With nothing read nothing is in hand: it ends at once with 0."""
    process, end = command(pipe, "nats://127.0.0.1:1", "emit", "-")
    try:
        await asyncio.sleep(3)

        assert await leaves(process) == 0
    finally:
        process.kill()
        os.close(end)


async def test_drain_of_a_spool_while_nats_is_away(pipe: Path, tmp_path: Path) -> None:
    """A spool that cannot be handed over is left at once when told to, and what remains is said."""
    folder = tmp_path / "spool"
    spool = SpoolSink(open_sink("nats://127.0.0.1:1"), folder, owns_inner=True, patience=0.0)
    await spool.emit_batch(make_events(5))
    await spool.aclose()
    async with listening(closes=True) as closing:
        arguments = ("spool", "drain", str(folder), "--to", f"nats://{closing.host}", "--wait", "60")
        process, end = command(pipe, "nats://127.0.0.1:1", *arguments)
        try:
            await eventually(lambda: closing.connections)

            assert await leaves(process) == 1
            assert "5 events remain at the signal to stop" in text_of(tmp_path / "err")
        finally:
            process.kill()
            os.close(end)


def test_library_shows_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """An error that a library logs is a line with what was raised and where; with the level debug its traceback too."""
    for level, shown in (("info", False), ("debug", True)):
        logs.configure(level, "json")
        try:
            raise LookupError("planted")  # noqa: TRY301  (to have a traceback)
        except LookupError as exc:
            logging.getLogger("nats.aio.client").error("nats: encountered error", exc_info=exc)
        printed = capsys.readouterr().err

        assert "planted" in printed
        assert ("Traceback" in printed or '"frames"' in printed) is shown
