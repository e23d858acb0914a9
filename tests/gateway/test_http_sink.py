"""HttpSink through the gateway into the stream: the contract from end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from noetl_events import decode
from noetl_events.sinks.http import HttpSink
from noetl_events.testing import SinkContract
from tests.gateway.gateway_process import serving, stored_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from noetl_events import EventSink, ExecutorEvent
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration


class TestHttpSinkToGateway(SinkContract):
    """HttpSink keeps the contract of a sink through the gateway."""

    keyed = False

    @pytest.fixture(autouse=True)
    async def _gateway(self, connection: Connection, stream: StreamDeclaration) -> AsyncIterator[None]:
        self.connection, self.stream = connection, stream
        async with serving(connection, stream) as web:
            self.url = web.url
            yield

    def open(self) -> EventSink:
        """Return a new sink to the gateway of this test."""
        return HttpSink(f"{self.url}/api/events")

    async def stored(self) -> list[ExecutorEvent]:
        """Return the events in the stream."""
        return [decode(msgspec.json.encode(body)) for body in await stored_in(self.connection, self.stream)]
