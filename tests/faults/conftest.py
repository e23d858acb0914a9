"""Servers that the test may kill: one with the streams in it, and a Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import DEAD_LETTERS, TRIALS, StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from noetl_events.testing.nats_server import NatsServer


@pytest.fixture
async def own_connection(own_server: NatsServer) -> AsyncIterator[Connection]:
    """Return a connection to a server with both streams, empty."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        for declared in (StreamDeclaration(), DEAD_LETTERS, TRIALS):
            await ensure_stream(connection, declared)
        yield connection


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    """Return a server that the test may kill."""
    with PostgresServer(data_dir=tmp_path / "postgres") as server:
        yield server
