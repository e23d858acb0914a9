"""`noetl-events spool`: the content of a folder, and its forwarding."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from noetl_events.sink import SinkUnavailable
from noetl_events.sinks.memory import MemorySink
from noetl_events.sinks.spool.sink import SpoolSink
from noetl_events.testing import FaultySink, make_events
from tests.cli.command import run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """Return the spool of a worker that has ended, with 50 events in it."""
    away = FaultySink(MemorySink(), [SinkUnavailable("away", retry_after=60)] * 9)
    sink = SpoolSink(away, tmp_path / "spool", patience=0.0)
    await sink.emit_batch(make_events(50))
    await sink.aclose()
    return tmp_path / "spool"


def test_show_counts_what_waits(folder: Path) -> None:
    """Waiting events make the exit code 1, as a probe needs."""
    done = run("spool", "show", str(folder), "--json")

    assert (done.returncode, json.loads(done.stdout)["waiting"]) == (1, 50)


def test_drain_hands_over(folder: Path, tmp_path: Path) -> None:
    """Every event arrives, and the spool is empty afterwards."""
    done = run("spool", "drain", str(folder), "--to", f"jsonl://{tmp_path}/out.jsonl", "--json")

    assert (done.returncode, json.loads(done.stdout)) == (0, {"drained": 50, "waiting": 0})
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 50
    assert run("spool", "show", str(folder)).returncode == 0


def test_drain_that_cannot_says_what_remains(folder: Path) -> None:
    """An unavailable destination leaves every event in the spool, and a line says so."""
    done = run("spool", "drain", str(folder), "--to", "jsonl:///missing/folder/out.jsonl", "--wait", "0.2")

    assert done.returncode == 1
    assert b"50 events remain after 0.2 s" in done.stderr


async def test_drain_leaves_a_running_worker_alone(tmp_path: Path) -> None:
    """A spool in use by another process is not drained."""
    sink = SpoolSink(MemorySink(), tmp_path / "spool")
    await sink.emit_batch(make_events(5))
    done = run("spool", "drain", str(tmp_path / "spool"), "--to", "noop:")
    await sink.aclose()

    assert done.returncode == 1
    assert b"another process has it open" in done.stderr


@pytest.mark.parametrize("command", [("show",), ("drain", "--to", "noop:")])
def test_folder_that_is_no_spool(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A wrong folder is reported, and no spool is created in it."""
    done = run("spool", *command, str(tmp_path))

    assert done.returncode == 2
    assert b"is no spool" in done.stderr
    assert not [*tmp_path.iterdir()]
