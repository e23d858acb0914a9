"""Dead letters on a server, and its streams read without the project's own commands."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nats.js.errors import NotFoundError

from consumers.dead_letters import DeadLetters
from noetl_events import encode
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consume.puller import Puller
from noetl_events.jetstream.declarations import ConsumerDeclaration, StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.testing import make_event

if TYPE_CHECKING:
    import subprocess

    from consumers.dead_letters import Kind
    from noetl_events.testing.nats_server import NatsServer

MALFORMED = b'\xff\x1b[31m{"execution_id": 1}'


def publish_dead(server: NatsServer, *letters: tuple[bytes, Kind, str], times: int = 1) -> None:
    """Publish and dead-letter each body."""
    asyncio.run(_publish_dead(server, letters, times))


async def _publish_dead(server: NatsServer, letters: tuple[tuple[bytes, Kind, str], ...], times: int) -> None:
    async with Connection(ConnectOptions(servers=server.url)) as connection:
        js = await jetstream(connection)
        puller = Puller(connection, ConsumerDeclaration(name="publishing"))
        for body, kind, reason in letters:
            await js.publish("noetl.events.x", body, headers={"traceparent": "00-1-2-01"})
            [message] = await puller.pull(1)
            for _ in range(times):
                await DeadLetters(connection).publish(message, kind, reason)
            await puller.ack([message])
        await puller.flush()
        await puller.aclose()
        await js.delete_consumer(StreamDeclaration().name, "publishing")


def three(server: NatsServer) -> None:
    """Dead-letter a malformed message and two rejected events."""
    publish_dead(
        server,
        (MALFORMED, "malformed", "body: \x1b]0;owned\x07 [red]no[/red]"),
        (encode(make_event(1)), "rejected", "status: too long"),
        (encode(make_event(2, execution_id=5)), "rejected", "STEP: unknown"),
    )


def messages_in(server: NatsServer, stream: str) -> list[bytes]:
    """Return the bodies in *stream*."""

    async def read() -> list[bytes]:
        async with Connection(ConnectOptions(servers=server.url)) as connection:
            js = await jetstream(connection)
            bodies = []
            for number in range(1, (await js.stream_info(stream)).state.last_seq + 1):
                with suppress(NotFoundError):
                    bodies.append((await js.get_msg(stream, number)).data or b"")
            return bodies

    return asyncio.run(read())


def lines(done: subprocess.CompletedProcess[bytes]) -> list[Any]:
    """Return the JSON objects that a command printed, one a line."""
    return [json.loads(line) for line in done.stdout.splitlines()]
