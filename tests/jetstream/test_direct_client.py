"""What comes straight from the parser is what comes the long way; and what of nats-py that relies on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from nats.errors import ConnectionReconnectingError

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.direct_client import Arrival, DirectClient
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.testing import eventually

if TYPE_CHECKING:
    from noetl_events.jetstream.delivery import Message
    from noetl_events.testing.nats_server import NatsServer


def told(message: Message) -> tuple[str, str, bytes, dict[str, str] | None]:
    """Return all there is to a message."""
    return message.subject, message.reply, message.data, message.headers and dict(message.headers)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(None, id="none"),
        pytest.param({"Nats-Msg-Id": "7"}, id="one"),
        pytest.param({"A": "1:2", "B": "x y", "Empty": ""}, id="several"),
    ],
)
async def test_direct_and_queued_are_the_same(connection: Connection, headers: dict[str, str] | None) -> None:
    """Subject, reply, data and headers are those nats-py's own subscription delivers."""
    client = await connection.client()
    inbox = client.new_inbox()
    direct: list[Message] = []
    queued: list[Message] = []

    async def take(message: Message) -> None:
        queued.append(message)

    await client.subscribe_direct(f"{inbox}.*", direct.append)
    await client.subscribe(f"{inbox}.*", cb=take)
    await client.publish(f"{inbox}.1", b"\x00\xff", reply="to.me", headers=headers)
    await eventually(lambda: direct and queued)

    assert isinstance(direct[0], Arrival), "nats-py has no _process_msg any more: see direct_client.py"
    assert told(direct[0]) == told(queued[0])


async def test_status_of_the_server_is_read(connection: Connection) -> None:
    """What the server itself says has a status and a description, as nats-py words them."""
    client = await connection.client()
    inbox = client.new_inbox()
    heard: list[Message] = []
    await client.subscribe_direct(f"{inbox}.*", heard.append)
    await client.publish("$JS.API.CONSUMER.MSG.NEXT.no_stream.none", b"", reply=f"{inbox}.1")
    await client.publish("nobody.listens", b"", reply=f"{inbox}.2")
    await eventually(lambda: heard)

    assert (heard[-1].headers or {})["Status"] == "503"


async def test_after_unsubscribing_nothing_is_handed_over(connection: Connection) -> None:
    """A subscription that was ended takes nothing more, and is forgotten at the next one."""
    client = await connection.client()
    inbox = client.new_inbox()
    heard: list[Message] = []
    subscription = await client.subscribe_direct(f"{inbox}.a", heard.append)
    await subscription.unsubscribe()
    await client.publish(f"{inbox}.a", b"")
    await client.flush()
    await client.subscribe_direct(f"{inbox}.b", heard.append)

    assert heard == []
    assert len(client._takers) == 1


async def test_reconnection_keeps_the_subscription(own_server: NatsServer) -> None:
    """After a reconnection messages come as before."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        client = await connection.client()
        inbox = client.new_inbox()
        heard: list[Message] = []
        await client.subscribe_direct(f"{inbox}.*", heard.append)
        restored = asyncio.Event()
        connection.on_reconnect(restored.set)
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.start)
        await asyncio.wait_for(restored.wait(), 15)
        await client.publish(f"{inbox}.1", b"again")
        await eventually(lambda: heard)

        assert isinstance(client, DirectClient)
        assert heard[0].data == b"again"


async def test_request_ends_with_the_connection(own_server: NatsServer) -> None:
    """Who waits for an answer when the connection is lost is told so then, not when its time is up."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        client = await connection.client()
        own_server.pause()
        asking = asyncio.ensure_future(client.request("$JS.API.INFO", timeout=600))
        await asyncio.sleep(0)
        own_server.kill()
        with pytest.raises(ConnectionReconnectingError):
            await asking
        own_server.start()
        await eventually(lambda: connection.is_connected)

        assert (await client.request("$JS.API.INFO", timeout=5)).data
