"""The same bench for every test of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from noetl_events.jetstream.declarations import TRIALS
from noetl_events.jetstream.streams import ensure_stream
from tests.projector.bench import Bench

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration


@pytest.fixture
async def bench(connection: Connection, stream: StreamDeclaration, dead_stream: StreamDeclaration) -> Bench:
    """Return an empty stream and an empty dead-letter stream."""
    await ensure_stream(connection, TRIALS)
    return Bench(connection, stream, dead_stream)
