"""The same path on every older server version still in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sinks.memory import MemorySink
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_events
from noetl_events.testing.nats_server import NatsServer
from tests.old_servers import OLD_VERSIONS, old_server
from tests.projector.bench import Bench, ids

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

STREAM = StreamDeclaration(name="events", subjects=("events.>",))
DEAD = StreamDeclaration(name="dead", subjects=("dead.>",))


@pytest.fixture(params=OLD_VERSIONS)
async def old(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Connection]:
    """Return a connection to a server of an older version."""
    with NatsServer(store_dir=tmp_path / "nats", binary=old_server(request.param)) as server:
        async with Connection(ConnectOptions(servers=server.url)) as connection:
            yield connection


async def test_events_go_all_the_way(old: Connection) -> None:
    """An emitted event is stored, projected in order and acknowledged; declaring the streams again changes nothing."""
    for declared in (STREAM, DEAD, STREAM, DEAD):
        await ensure_stream(old, declared)
    publishing, sink = NatsSink(old, subject="events.{event_type}"), MemorySink()
    await publishing.emit_batch(make_events(300))
    await publishing.aclose()
    bench = Bench(old, STREAM, DEAD)
    async with bench.projecting(sink):
        await eventually(lambda: len(sink.events) == 300)
    assert ids(sink) == list(range(1, 301))
    await eventually(lambda: bench.unsettled_is(0))
