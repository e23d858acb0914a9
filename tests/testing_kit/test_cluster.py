"""`make cluster`, as a process."""

from __future__ import annotations

import asyncio
import signal
import sys

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing import eventually
from tests.faults.load import is_made


async def test_a_cluster_takes_a_replicated_stream_and_ends_with_a_signal() -> None:
    """The command prints a URL of three servers with a stream of three replicas, and ends after SIGTERM."""
    command = ("-m", "noetl_events.testing.cluster")
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    assert len(url.split(",")) == 3
    async with Connection(ConnectOptions(servers=url)) as connection:
        # A server may still be unknown to the leader of the cluster, which has no peer for a replica then.
        await eventually(lambda: is_made(connection, StreamDeclaration(replicas=3)))
        info = await ensure_stream(connection, StreamDeclaration(replicas=3))
        assert info.config.num_replicas == 3
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(180):
        assert await process.wait() == 0
