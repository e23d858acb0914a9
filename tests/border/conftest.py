"""A separate server for the tests that edit its streams and consumers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import DEAD_LETTERS, TRIALS
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing.nats_server import NatsServer
from tests.border.lab import Lab

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="module")
def edited_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Return a server for the tests of one module."""
    with NatsServer(store_dir=tmp_path_factory.mktemp("border")) as server:
        yield server


@pytest.fixture
async def lab(edited_server: NatsServer) -> AsyncIterator[Lab]:
    """Return a lab on that server, with the streams that a projector writes to."""
    async with Connection(ConnectOptions(servers=edited_server.url)) as connection:
        for declared in (DEAD_LETTERS, TRIALS):
            await ensure_stream(connection, declared)
        made = Lab(connection)
        await made.count_requests()
        yield made
