"""
Projectors as processes side by side: shared partitions, a standby that takes over, several destinations.

Short by default; `make faults-tests` sets `NOETL_FAULTS=long`.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from noetl_events import encode
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.declarations import DEAD_LETTERS, StreamDeclaration
from noetl_events.jetstream.streams import show_stream
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_event
from tests.faults.processes import ended, projecting, split, stored_ids

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from noetl_events.jetstream.connection import Connection
    from noetl_events.testing.nats_server import NatsServer

LONG = os.environ.get("NOETL_FAULTS") == "long"
ROUNDS = 400 if LONG else 100
EXECUTIONS = 16
TAKEOVER = 15.0 if LONG else 180.0
LANES = {"NOETL_EVENT_STREAM_PARTITIONS": "4"}

pytestmark = pytest.mark.timeout(1800)


class Traffic:
    """Events of many executions, a few of each at a time, until stopped; some have no execution."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sink = NatsSink(connection, subject="noetl.events.{execution_id}.{event_type}")
        self._rounds = 0

    @property
    def published(self) -> int:
        """The number of events stored in the stream."""
        return self._rounds * (EXECUTIONS + 1)

    async def run(self, rounds: int) -> None:
        """Publish *rounds* more events of each execution, and one with a subject without execution."""
        js = await jetstream(self._connection)
        for _ in range(rounds):
            start = self.published
            await self._sink.emit_batch([make_event(start + lane, execution_id=lane) for lane in range(EXECUTIONS)])
            stray = make_event(start + EXECUTIONS, execution_id=EXECUTIONS)
            await js.publish("noetl.events.stray", encode(stray))
            self._rounds += 1

    def is_stored(self, path: Path) -> bool:
        """Return true if all published events are stored."""
        return len(stored_ids(path)) == self.published

    def require_order(self, path: Path) -> None:
        """Fail unless *path* has every event once, and those of each execution in order."""
        stored = stored_ids(path)
        assert sorted(stored) == list(range(self.published))
        for lane in range(EXECUTIONS + 1):
            of_lane = [number for number in stored if number % (EXECUTIONS + 1) == lane]
            assert of_lane == sorted(of_lane), f"execution {lane}"


def shares(log: Path, replicas: int) -> bool:
    """Return true if the replica with *log* last counted so many replicas, and got partitions itself."""
    lines = [line for line in log.read_text().splitlines() if "partitions.assigned" in line] if log.exists() else [""]
    return bool(lines) and f'"replicas": {replicas}' in lines[-1] and '"mine": []' not in lines[-1]


async def all_share(*logs: Path, replicas: int) -> None:
    """Return once the replicas with *logs* share the partitions."""
    await eventually(lambda: all(shares(log, replicas) for log in logs), timeout=TAKEOVER)


async def test_lanes_follow_the_replicas(own_server: NatsServer, own_connection: Connection, tmp_path: Path) -> None:
    """Two replicas share four partitions, a third joins, one is killed (-9): every event once, executions in order."""
    await split(own_connection, 4)
    database, traffic = tmp_path / "events.db", Traffic(own_connection)
    logs = [tmp_path / f"log{number}" for number in range(3)]
    replicas: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:

        def join() -> None:
            log = logs[len(replicas)]
            replicas.append(
                stack.enter_context(projecting(own_server, f"sqlite:///{database}", log=log, settings=LANES))
            )

        join()
        join()
        await all_share(*logs[:2], replicas=2)
        publishing = asyncio.create_task(traffic.run(ROUNDS))
        join()
        await all_share(*logs, replicas=3)
        await publishing
        await eventually(lambda: traffic.is_stored(database), timeout=TAKEOVER)
        publishing = asyncio.create_task(traffic.run(ROUNDS))
        replicas[0].kill()
        await publishing
        await eventually(lambda: traffic.is_stored(database), timeout=TAKEOVER)
        for replica in replicas[1:]:
            replica.terminate()
            assert await ended(replica) == 0

    traffic.require_order(database)
    assert (await show_stream(own_connection, DEAD_LETTERS.name)).state.messages == 0


async def test_standby_steps_in(own_server: NatsServer, own_connection: Connection, tmp_path: Path) -> None:
    """When the active replica is killed (-9) under load, the standby continues, in stream order."""
    database, traffic = tmp_path / "events.db", Traffic(own_connection)
    logs = [tmp_path / "first", tmp_path / "second"]
    to, arguments = f"sqlite:///{database}", ("--standby",)
    # A starved process must not lose its pin before its end.
    settings = {"NOETL_PIN_SECS": "5"}
    with projecting(own_server, to, log=logs[0], arguments=arguments, settings=settings) as first:
        await traffic.run(20)
        await eventually(lambda: traffic.is_stored(database))
        with projecting(own_server, to, log=logs[1], arguments=arguments, settings=settings) as second:
            publishing = asyncio.create_task(traffic.run(ROUNDS))
            await eventually(lambda: len(stored_ids(database)) > 500)
            assert "puller.pinned" not in logs[1].read_text()
            first.kill()
            await publishing
            await eventually(lambda: traffic.is_stored(database), timeout=TAKEOVER)
            second.terminate()
            assert await ended(second) == 0

    assert stored_ids(database) == list(range(traffic.published))
    assert (await show_stream(own_connection, DEAD_LETTERS.name)).state.messages == 0


async def test_one_destination_away_holds_no_other(
    own_server: NatsServer, own_connection: Connection, tmp_path: Path
) -> None:
    """
    An unavailable destination delays only its own progress, whatever the order on the command line.

    Restarted in the other order, each destination continues at its position: nothing is delivered to it again.
    """
    traffic, log = Traffic(own_connection), tmp_path / "log"
    near, far = tmp_path / "near.db", tmp_path / "away" / "far.db"
    to = [f"sqlite:///{far}", f"sqlite:///{near}"]
    with projecting(own_server, *to, log=log) as process:
        await traffic.run(5)
        await eventually(lambda: traffic.is_stored(near))
        assert stored_ids(far) == []
        far.parent.mkdir()
        await eventually(lambda: traffic.is_stored(far))
        process.terminate()
        assert await ended(process) == 0
    with projecting(own_server, *reversed(to), log=log):
        await traffic.run(5)
        await eventually(lambda: traffic.is_stored(near) and traffic.is_stored(far))

    js = await jetstream(own_connection)
    consumers = await js.consumers_info(StreamDeclaration().name)
    assert len(consumers) == 2
    for consumer in consumers:
        assert consumer.delivered is not None
        assert consumer.delivered.consumer_seq == traffic.published


async def test_same_destination_twice_is_refused(own_server: NatsServer, tmp_path: Path) -> None:
    """Two equal destinations are refused, as they would be one consumer read twice."""
    log = tmp_path / "log"
    to = f"sqlite:///{tmp_path}/events.db"
    with projecting(own_server, to, to, log=log) as process:
        assert await ended(process) == 2

    assert "is given twice" in log.read_text()
