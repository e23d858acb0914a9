"""A scripted stream for every test of this folder."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import nats
import pytest

from noetl_events.jetstream.publish.publisher import Publisher
from tests.jetstream.scripted_stream import ScriptedStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from noetl_events.jetstream.connection import Connection

_subjects = count()


@pytest.fixture
async def scripted(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedStream]:
    """Run a scripted stream with a long silence limit, because a slow machine is not silence."""
    monkeypatch.setattr("noetl_events.jetstream.publish.plain._QUIET", 60.0)
    client = await nats.connect(nats_url)
    stream = ScriptedStream(client, f"scripted.{next(_subjects)}")
    await client.subscribe(stream.subject, cb=stream.take)
    await client.flush()
    yield stream
    await client.close()


@pytest.fixture
async def publisher(connection: Connection) -> AsyncIterator[Publisher]:
    """Publish with the default patience."""
    made = Publisher(connection, stream="S")
    yield made
    await made.aclose()
