"""Twenty clients of the live stream while gateway and server are killed repeatedly."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream, show_stream
from noetl_events.testing import eventually, make_events
from noetl_events.testing.server_process import free_port
from tests.gateway.gateway_process import serving
from tests.gateway.reader import reading
from tests.gateway.test_stream import publish

if TYPE_CHECKING:
    from noetl_events.testing.nats_server import NatsServer

_LONG = os.environ.get("NOETL_FAULTS") == "long"
_CLIENTS = 20 if _LONG else 4
_GATEWAYS = 10 if _LONG else 3
_SERVERS = (2, 5, 8) if _LONG else (1,)
_STEP = 500


@pytest.mark.slow
async def test_each_sequence_once(own_server: NatsServer) -> None:
    """Every client gets every sequence exactly once, in order, through restarts of gateway and server."""
    declared, port = StreamDeclaration(), free_port()
    async with AsyncExitStack() as stack, Connection(ConnectOptions(servers=own_server.url)) as connection:
        await ensure_stream(connection, declared)
        url = f"http://127.0.0.1:{port}"
        readers = [await stack.enter_async_context(reading(url, "from=start")) for _ in range(_CLIENTS)]
        for number in range(_GATEWAYS):
            async with Connection(ConnectOptions(servers=own_server.url)) as own, serving(own, declared, port=port):
                await publish(connection, declared, make_events(_STEP, start=1 + 2 * number * _STEP))
                if number in _SERVERS:
                    own_server.kill()
                    await asyncio.to_thread(own_server.start)
                await eventually(partial(readers[number % _CLIENTS].has, (2 * number + 1) * _STEP))
            # No gateway serves meanwhile.
            await publish(connection, declared, make_events(_STEP, start=1 + (2 * number + 1) * _STEP))
        async with serving(connection, declared, port=port):
            last = (await show_stream(connection, declared.name)).state.last_seq
            for reader in readers:
                await eventually(partial(reader.has, last))

        assert last == 2 * _GATEWAYS * _STEP
        for reader in readers:
            assert reader.sequences == list(range(1, last + 1))
            assert not reader.controls
