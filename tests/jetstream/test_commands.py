"""Many messages in one write: the parts of nats-py it uses, and the commands it never lets through."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.publish.message import Call, Outgoing, command, command_with, encoded_subject, publish_all
from noetl_events.testing import eventually

if TYPE_CHECKING:
    from noetl_events.testing.nats_server import NatsServer


async def test_messages_arrive_whole_and_in_order(connection: Connection) -> None:
    """Subject, reply, id and body of each message arrive as given, between messages that nats-py itself publishes."""
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
        Outgoing("raw.a", b"1", b"\r\nHPUB x 0 0\r\n\r\n", 1),
        Outgoing("raw.b", b"-2", b"", 1),
        Outgoing("raw.c", b"3", b"z", 1),
    ]
    call = Call()
    for message in messages:
        call.add(message)
    await publish_all(
        client, messages, [command(message, b"reply.%d" % index) for index, message in enumerate(messages)]
    )
    await client.publish("raw.after", b"")
    await asyncio.wait_for(done.wait(), 180)

    assert heard == [
        ("raw.before", "", None, b""),
        ("raw.a", "reply.0", "1", b"\r\nHPUB x 0 0\r\n\r\n"),
        ("raw.b", "reply.1", "-2", b""),
        ("raw.c", "reply.2", "3", b"z"),
        ("raw.after", "", None, b""),
    ]
    assert call.is_sent


async def test_headers_are_added(connection: Connection) -> None:
    """Header lines stand beside the id, with and without a reply subject."""
    client = await connection.client()
    inbox = await client.subscribe("headers.>")
    message = Outgoing("headers.a", b"7", b"body", 1)
    Call().add(message)
    await publish_all(client, [message] * 2, [command_with(message, b"A: 1\r\n", reply) for reply in (b"", b"reply")])
    heard = [await inbox.next_msg(timeout=60) for _ in range(2)]

    assert [one.reply for one in heard] == ["", "reply"]
    assert [one.headers for one in heard] == [{"Nats-Msg-Id": "7", "A": "1"}] * 2
    assert [one.data for one in heard] == [b"body"] * 2


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB x 0\r\n", "a\tb", "a\x00", "a\u2028b"])
def test_hostile_subject_is_refused(subject: str) -> None:
    """A subject that would be read as another command is refused."""
    with pytest.raises(ValueError, match="subject: "):
        encoded_subject(subject)
    with pytest.raises(ValueError, match="subject: "):
        Outgoing(subject, b"1", b"", 1)


async def test_nothing_is_kept_for_later(own_server: NatsServer) -> None:
    """Without a connection nothing is written: nats-py would send it after the callers had given up."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        client = await connection.client()
        own_server.kill()
        await eventually(lambda: not connection.is_connected)
        message = Outgoing("raw.a", b"1", b"", 1)
        Call().add(message)
        with pytest.raises(NatsUnavailable, match="not connected"):
            await publish_all(client, [message], [command(message, b"reply")])

        assert not message.call.is_sent
