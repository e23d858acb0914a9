"""Many messages in one write: what it relies on in nats-py, and what it must never let through."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from noetl_events.jetstream.commands import encoded_subject, publish_all
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.outgoing import Outgoing
from noetl_events.testing import eventually

if TYPE_CHECKING:
    from noetl_events.testing.nats_server import NatsServer


async def test_messages_arrive_whole_and_in_order(connection: Connection) -> None:
    """Subject, reply, id and body of each message arrive as given, between what nats-py itself publishes."""
    client = await connection.client()
    heard: list[tuple[str, str, str | None, bytes]] = []
    done = asyncio.Event()

    async def hear(message: object) -> None:
        headers = message.headers or {}  # type: ignore[attr-defined]
        heard.append((message.subject, message.reply, headers.get("Nats-Msg-Id"), message.data))  # type: ignore[attr-defined]
        if len(heard) == 5:
            done.set()

    await client.subscribe("raw.>", cb=hear)
    await client.publish("raw.before", b"")
    messages = [
        Outgoing("raw.a", 1, b"\r\nHPUB x 0 0\r\n\r\n", 1),
        Outgoing("raw.b", -2, b"", 1),
        Outgoing("raw.c", 3, b"z", 1),
    ]
    await publish_all(client, messages, [b"reply.%d" % index for index in range(3)])
    await client.publish("raw.after", b"")
    await asyncio.wait_for(done.wait(), 5)

    assert heard == [
        ("raw.before", "", None, b""),
        ("raw.a", "reply.0", "1", b"\r\nHPUB x 0 0\r\n\r\n"),
        ("raw.b", "reply.1", "-2", b""),
        ("raw.c", "reply.2", "3", b"z"),
        ("raw.after", "", None, b""),
    ]
    assert all(message.sent for message in messages)


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB x 0\r\n", "a\tb", "a\x00", "a\u2028b"])
def test_hostile_subject_is_refused(subject: str) -> None:
    """A subject that would be read as another command never becomes a message."""
    with pytest.raises(ValueError, match="subject: "):
        encoded_subject(subject)
    with pytest.raises(ValueError, match="subject: "):
        Outgoing(subject, 1, b"", 1)


async def test_nothing_is_kept_for_later(own_server: NatsServer) -> None:
    """Without a connection nothing is handed over: nats-py would send it after everybody had given it up."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        client = await connection.client()
        own_server.kill()
        await eventually(lambda: not connection.is_connected)
        message = Outgoing("raw.a", 1, b"", 1)
        with pytest.raises(NatsUnavailable, match="not connected"):
            await publish_all(client, [message], [b"reply"])

        assert not message.sent
