"""
The memory of a projector: the same during a drain and during an outage of its destination as when idle.

Short by default: 25,000 events and seconds of an outage.  `make faults-tests` sets `NOETL_FAULTS=long`:
1,000,000 events, two minutes.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from noetl_events.jetstream.consumers import show_consumer
from noetl_events.jetstream.declarations import ConsumerDeclaration, StreamDeclaration
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_events
from tests.faults.load import emit_until_taken
from tests.faults.processes import ended, projecting, stored_ids

if TYPE_CHECKING:
    import subprocess

    from noetl_events.jetstream.connection import Connection
    from noetl_events.testing.nats_server import NatsServer

LONG = os.environ.get("NOETL_FAULTS") == "long"
EVENTS, OUTAGE = (1_000_000, 120.0) if LONG else (25_000, 3.0)
CHUNK = 5_000
ROOM_KB = 64 * 1024

log = structlog.get_logger()

pytestmark = pytest.mark.timeout(1800)


def resident_kb(process: subprocess.Popen[bytes], what: str = "VmRSS") -> int:
    """Return the resident memory of *process*, or with `VmHWM` its maximum so far."""
    found = re.search(rf"^{what}:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


async def publish(connection: Connection, count: int) -> None:
    """Store *count* events in the stream."""
    sink = NatsSink(connection)
    for start in range(1, count + 1, CHUNK):
        await emit_until_taken(sink, make_events(CHUNK, start=start))
    await sink.aclose()


async def unsettled(connection: Connection) -> int:
    """Return the number of messages that are not acknowledged."""
    info = await show_consumer(connection, ConsumerDeclaration(name="noetl_projector", stream=StreamDeclaration().name))
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


async def reads(connection: Connection) -> bool:
    """Return true if the projector has created its consumer."""
    return bool(await (await connection.client()).jetstream().consumers_info(StreamDeclaration().name))


async def test_memory_of_a_drain(own_server: NatsServer, own_connection: Connection, tmp_path: Path) -> None:
    """Draining a long stream takes at most 64 MB more than idling."""
    with projecting(own_server, "noop:", log=tmp_path / "log") as process:
        await eventually(lambda: reads(own_connection))
        idle = resident_kb(process)
        process.terminate()
        assert await ended(process) == 0
    await publish(own_connection, EVENTS)
    with projecting(own_server, "noop:", log=tmp_path / "log") as process:
        await eventually(lambda: settled(own_connection), timeout=300)
        peak = resident_kb(process, "VmHWM")
    log.info("memory", events=EVENTS, idle_mb=idle // 1024, peak_mb=peak // 1024)

    assert peak - idle < ROOM_KB


async def settled(connection: Connection) -> bool:
    """Return true if every message is acknowledged."""
    return await unsettled(connection) == 0


async def test_memory_of_an_outage(own_server: NatsServer, own_connection: Connection, tmp_path: Path) -> None:
    """An outage of the destination takes at most 64 MB more, whatever its length and the number of events."""
    database = tmp_path / "away" / "events.db"
    with projecting(own_server, f"sqlite:///{database}", log=tmp_path / "log") as process:
        await eventually(lambda: reads(own_connection))
        idle, began = resident_kb(process), time.monotonic()
        await publish(own_connection, EVENTS // 5)
        await eventually(lambda: time.monotonic() - began > OUTAGE, timeout=OUTAGE + 60)
        peak = resident_kb(process, "VmHWM")
        database.parent.mkdir()
        await eventually(lambda: settled(own_connection), timeout=300)
        log.info("memory", outage=OUTAGE, idle_mb=idle // 1024, peak_mb=peak // 1024)
        assert len(stored_ids(database)) == EVENTS // 5

    assert peak - idle < ROOM_KB
