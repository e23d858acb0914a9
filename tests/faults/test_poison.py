"""
An event that ends the process that writes it: projectors find it, and dead-letter it alone.

Short by default; `make faults-tests` sets `NOETL_FAULTS=long`.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import pytest

from noetl_events.envelope import decode
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.declarations import DEAD_LETTERS
from noetl_events.jetstream.streams import show_stream
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_event
from tests.faults import trap
from tests.faults.processes import projecting, split, stored_ids

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from noetl_events.jetstream.connection import Connection
    from noetl_events.testing.nats_server import NatsServer

LONG = os.environ.get("NOETL_FAULTS") == "long"
EVENTS = 5_000
POISON = EVENTS // 3
LIVES = 9
"""The projectors that one event may end: at the first delivery, then at 500, 20, 1 and 1; and some to spare."""

pytestmark = pytest.mark.timeout(1800)


async def publish(connection: Connection, count: int) -> None:
    """Store *count* events, numbered from 1 up, of eight executions."""
    sink = NatsSink(connection, subject="noetl.events.{execution_id}.{event_type}")
    await sink.emit_batch([make_event(number, execution_id=number % 8) for number in range(1, count + 1)])
    await sink.aclose()


async def dead_ids(connection: Connection) -> list[tuple[int | None, str]]:
    """Return id and kind of every dead letter, in order."""
    js = await jetstream(connection)
    count = (await show_stream(connection, DEAD_LETTERS.name)).state.last_seq
    letters = [await js.get_msg(DEAD_LETTERS.name, sequence) for sequence in range(1, count + 1)]
    return [(decode(letter.data or b"").event_id, (letter.headers or {})["Noetl-Kind"]) for letter in letters]


EVERY = [(mode, end) for mode in ("shared", "standby", "lanes", "neighbour") for end in ("exit", "kill", "bug")]


@pytest.mark.parametrize(("mode", "end"), EVERY if LONG else [("shared", "kill")])
async def test_poisonous_event_is_buried_alone(
    own_server: NatsServer, own_connection: Connection, tmp_path: Path, mode: str, end: str
) -> None:
    """
    Restarted projectors dead-letter that event as fatal, and store every other one.

    The same holds if partitions or another destination of the process end with it, each during some step.
    """
    trap.install(tmp_path / "path")
    settings = {"PYTHONPATH": str(tmp_path / "path")}
    if mode == "lanes":
        await split(own_connection, 4)
        settings["NOETL_EVENT_STREAM_PARTITIONS"] = "4"
    await publish(own_connection, EVENTS)
    trapped, neighbour = tmp_path / "trapped.db", tmp_path / "neighbour.db"
    to = [f"trap:///{trapped}?id={POISON}&end={end}"] + [f"sqlite:///{neighbour}"] * (mode == "neighbour")
    arguments = ("--standby",) if mode == "standby" else ()

    async def is_over() -> bool:
        stored = len(stored_ids(trapped)) + len(stored_ids(neighbour))
        return stored >= EVENTS * len(to) - 1 and bool(await dead_ids(own_connection))

    lives = 0
    while not await is_over() and lives < LIVES:
        lives += 1
        with projecting(own_server, *to, log=tmp_path / "log", arguments=arguments, settings=settings) as process:
            await eventually(partial(dead_or, process, is_over))

    assert sorted(stored_ids(trapped)) == [number for number in range(1, EVENTS + 1) if number != POISON]
    assert sorted(stored_ids(neighbour)) == list(range(1, EVENTS + 1)) * (mode == "neighbour")
    assert await dead_ids(own_connection) == [(POISON, "fatal")], (tmp_path / "log").read_text()


async def dead_or(process: subprocess.Popen[bytes], is_over: Callable[[], Awaitable[bool]]) -> bool:
    """Return true if *process* has ended, or *is_over* is true."""
    return process.poll() is not None or await is_over()
