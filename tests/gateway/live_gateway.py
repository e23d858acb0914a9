"""`noetl-events serve` as a process with its own server, and faults on request."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import DEAD_LETTERS, StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing.nats_server import NatsServer
from noetl_events.testing.server_process import free_port
from tests.cli.command import start
from tests.jetstream.past import publish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from multiprocessing.context import ForkServerProcess

    from nats.js import JetStreamContext

STREAM = StreamDeclaration()


class LiveGateway:
    """A gateway that the test kills and restarts; its stream can be purged or created again."""

    def __init__(self, folder: Path) -> None:
        self.server = NatsServer(store_dir=folder / "nats")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._token = folder / "token"
        self._log = folder / "gateway.log"
        self._process: ForkServerProcess | None = None

    def __enter__(self) -> Self:
        self.server.__enter__()
        asyncio.run(self._with_connection(_ensure_both))
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        self.server.__exit__(*exc)

    def start(self, *, token: str = "") -> None:
        """Start the gateway, with *token* for its clients, and return once it listens."""
        arguments = ["serve", "--listen", f"127.0.0.1:{self.port}"]
        if token:
            self._token.write_text(token)
            arguments += ["--token-file", str(self._token)]
        self._process = start(arguments, self.server.url, [Path(os.devnull), self._log, self._log])
        deadline = time.monotonic() + 180
        while not self._listens():
            assert self._process.is_alive(), self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill the gateway (-9)."""
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def terminate(self) -> None:
        """Send SIGTERM, and return once the gateway accepts no more connections."""
        assert self._process is not None
        self._process.terminate()
        while self._listens():
            time.sleep(0.02)

    def leaves(self) -> int | None:
        """Return the exit code after the process ended, None after three minutes."""
        assert self._process is not None
        self._process.join(180)
        return self._process.exitcode

    def emit(self, *events: dict[str, Any] | bytes) -> None:
        """Store *events* in the stream, in order; bytes are stored unchanged."""
        bodies = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
        asyncio.run(self._with_connection(lambda connection: publish(connection, "noetl.events.x", bodies)))

    def forget(self, up_to: int) -> None:
        """Drop every event up to a sequence, as a full stream does."""
        self._change(lambda js: js.purge_stream(STREAM.name, seq=up_to + 1))

    def forget_all(self) -> None:
        """Drop every event and every dead letter; the sequences continue."""
        self._change(lambda js: js.purge_stream(STREAM.name))
        self._change(lambda js: js.purge_stream(DEAD_LETTERS.name))

    def create_anew(self) -> None:
        """Replace the stream by a new one."""
        self._change(lambda js: js.delete_stream(STREAM.name))
        asyncio.run(self._with_connection(_ensure_both))

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=180):
            return True
        return False

    def _change(self, change: Callable[[JetStreamContext], Awaitable[Any]]) -> None:
        async def apply(connection: Connection) -> None:
            await change(await jetstream(connection))

        asyncio.run(self._with_connection(apply))

    async def _with_connection(self, use: Callable[[Connection], Awaitable[None]]) -> None:
        async with Connection(ConnectOptions(servers=self.server.url)) as connection:
            await use(connection)


async def _ensure_both(connection: Connection) -> None:
    for declared in (STREAM, DEAD_LETTERS):
        await ensure_stream(connection, declared)
