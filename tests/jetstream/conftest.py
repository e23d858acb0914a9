"""A stream that answers by script, for every test here."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import nats
import pytest

from tests.jetstream.scripted_stream import ScriptedStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_subjects = count()


@pytest.fixture
async def scripted(nats_url: str) -> AsyncIterator[ScriptedStream]:
    """Play a stream by script."""
    client = await nats.connect(nats_url)
    stream = ScriptedStream(client, f"scripted.{next(_subjects)}")
    await client.subscribe(stream.subject, cb=stream.take)
    await client.flush()
    yield stream
    await client.close()
