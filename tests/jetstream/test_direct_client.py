"""What comes straight from the parser is what comes the long way; what of nats-py that relies on, and what without."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import structlog
from nats.errors import ConnectionReconnectingError

from noetl_events.jetstream import client as direct_client
from noetl_events.jetstream.client import DirectClient, missing_hooks
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.message import Arrival
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.publish.message import Outgoing, command, command_with, publish_all, publish_to_all
from noetl_events.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from noetl_events.jetstream.message import Message
    from noetl_events.testing.nats_server import NatsServer


class Heard(list["Message"]):
    """What came to a subscription, and what was raised over it."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []

    def take(self, message: Message) -> bool:
        """Take *message*, whatever it is."""
        self.append(message)
        return True


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
    direct = Heard()
    queued: list[Message] = []

    async def take(message: Message) -> None:
        queued.append(message)

    await client.subscribe_direct(f"{inbox}.*", direct.take, direct.errors.append)
    await client.subscribe(f"{inbox}.*", cb=take)
    await client.publish(f"{inbox}.1", b"\x00\xff", reply="to.me", headers=headers)
    await eventually(lambda: direct and queued)

    assert isinstance(direct[0], Arrival)
    assert told(direct[0]) == told(queued[0])


async def test_status_of_the_server_is_read(connection: Connection) -> None:
    """What the server itself says has a status and a description, as nats-py words them."""
    client = await connection.client()
    inbox = client.new_inbox()
    heard = Heard()
    await client.subscribe_direct(f"{inbox}.*", heard.take, heard.errors.append)
    await client.publish("$JS.API.CONSUMER.MSG.NEXT.no_stream.none", b"", reply=f"{inbox}.1")
    await client.publish("nobody.listens", b"", reply=f"{inbox}.2")
    await eventually(lambda: heard)

    assert (heard[-1].headers or {})["Status"] == "503"


async def test_after_unsubscribing_nothing_is_handed_over(connection: Connection) -> None:
    """A subscription that was ended takes nothing more, and is forgotten at the next one."""
    client = await connection.client()
    inbox = client.new_inbox()
    heard = Heard()
    subscription = await client.subscribe_direct(f"{inbox}.a", heard.take, heard.errors.append)
    await subscription.unsubscribe()
    await client.publish(f"{inbox}.a", b"")
    await client.flush()
    await client.subscribe_direct(f"{inbox}.b", heard.take, heard.errors.append)

    assert not heard
    assert len(client._takers) == 1


async def test_flush_covers_what_was_written_before_it(connection: Connection) -> None:
    """A message that was published right before a flush has been to the server and back when the flush ends."""
    client = await connection.client()
    inbox, heard = client.new_inbox(), Heard()
    await client.subscribe_direct(inbox, heard.take, heard.errors.append)
    # A large one: a ping ahead of it would be answered before the server has read it all.
    for count in range(1, 21):
        await client.publish(inbox, bytes(900_000))
        await client.flush()
        assert len(heard) == count


async def test_reconnection_keeps_the_subscription(own_server: NatsServer) -> None:
    """After a reconnection messages come as before."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        client = await connection.client()
        inbox = client.new_inbox()
        heard = Heard()
        await client.subscribe_direct(f"{inbox}.*", heard.take, heard.errors.append)
        restored = asyncio.Event()
        connection.on_reconnect(restored.set)
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.start)
        await asyncio.wait_for(restored.wait(), 60)
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


def test_this_nats_py_has_every_private_name() -> None:
    """The nats-py of the pins is used the fast way, all of it."""
    assert missing_hooks() == frozenset()


@pytest.fixture
def other_nats_py(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have every private method of nats-py look like one with other parameters than those known."""
    others = {
        use: {name: (*parameters, "more") for name, parameters in methods.items()}
        for use, methods in direct_client._METHODS.items()
    }
    monkeypatch.setattr(direct_client, "_METHODS", others)
    missing_hooks.cache_clear()
    yield
    missing_hooks.cache_clear()


@pytest.mark.usefixtures("other_nats_py")
async def test_other_private_names_are_done_without(nats_url: str) -> None:
    """With a nats-py whose private methods differ, the public ones serve: messages come and go as before."""
    with structlog.testing.capture_logs() as logged:
        async with Connection(ConnectOptions(servers=nats_url)) as connection:
            client, heard = await connection.client(), Heard()
            await client.subscribe_direct("slow.>", heard.take, heard.errors.append)
            messages = [Outgoing("slow.a", b"1", b"one\r\n", 1), Outgoing("slow.b", b"2", b"", 1)]
            commands = [command(messages[0], b"reply.0"), command_with(messages[1], b"A: b\r\n", b"")]
            await publish_all(client, messages, commands)
            await publish_to_all(client, ["slow.c"], b"+ACK")
            await eventually(lambda: len(heard) == 3)
            await client.flush()

    assert [told(message)[:3] for message in heard] == [
        ("slow.a", "reply.0", b"one\r\n"),
        ("slow.b", "", b""),
        ("slow.c", "", b"+ACK"),
    ]
    assert (heard[0].headers or {})["Nats-Msg-Id"] == "1"
    assert heard[1].headers == {"Nats-Msg-Id": "2", "A": "b"}
    assert not any(isinstance(message, Arrival) for message in heard)
    (warning,) = [line for line in logged if line["event"] == "client.nats_py_differs"]
    assert warning["missing"] == sorted(direct_client._METHODS)


@pytest.mark.usefixtures("other_nats_py")
async def test_tls_is_not_entrusted_to_another_nats_py(nats_url: str) -> None:
    """Where the transport cannot be ours nothing is connected to if TLS is wanted, and the remedy is said."""
    async with Connection(ConnectOptions(servers=nats_url.replace("nats:", "tls:"))) as connection:
        with pytest.raises(ValueError, match="cannot be held to TLS, which is wanted; install nats-py"):
            await connection.client()


async def test_stray_message_is_counted_and_logged_once(connection: Connection) -> None:
    """What a callback does not expect is counted; the first is logged, and the next message is read as usual."""
    client = await connection.client()
    wanted: list[bytes] = []

    def take(message: Message) -> bool:
        if message.data == b"stray":
            return False
        wanted.append(message.data)
        return True

    with structlog.testing.capture_logs() as logged:
        await client.subscribe_direct("strays.>", take, wanted.append)  # type: ignore[arg-type]
        for data in (b"stray", b"wanted", b"stray", b"stray"):
            await client.publish("strays.a", data, reply="to.me")
        await eventually(lambda: client.passed_over["stray"] == 3)

    assert wanted == [b"wanted"]
    assert [(line["event"], line["kind"], line["subject"]) for line in logged] == [
        ("client.passed_over", "stray", "strays.a")
    ]


async def test_error_of_a_callback_does_not_end_the_connection(connection: Connection) -> None:
    """What a callback raises is counted, logged once for each kind with its place, and given to the owner."""
    client, heard = await connection.client(), Heard()

    def take(message: Message) -> bool:
        if message.data != b"good":
            raise LookupError(message.data)
        return heard.take(message)

    with structlog.testing.capture_logs() as logged:
        await client.subscribe_direct("errors.>", take, heard.errors.append)
        for data in (b"bad", b"good", b"bad", b"good"):
            await client.publish("errors.a", data)
        await eventually(lambda: len(heard) == 2)

    assert client.is_connected
    assert [str(error) for error in heard.errors] == ["b'bad'", "b'bad'"]
    assert client.passed_over == {"LookupError": 2}
    assert [line["event"] for line in logged] == ["client.passed_over"]
    assert logged[0]["where"].startswith("test_direct_client.py:")


async def test_subject_that_is_no_text_is_read(connection: Connection) -> None:
    """NATS takes any bytes for a subject: such a message comes, and one to nats-py's own subscription harms nobody."""
    client, heard = await connection.client(), Heard()
    queued: list[str] = []

    async def take(message: Message) -> None:
        queued.append(message.subject)

    await client.subscribe_direct("direct.>", heard.take, heard.errors.append)
    await client.subscribe("queued.>", cb=take)
    await client.write(b"PUB direct.\xff 1\r\nx\r\nPUB queued.\xff 1\r\nx\r\n")
    await client.publish("queued.good")
    await eventually(lambda: heard and queued)

    assert heard[0].subject == "direct.\N{REPLACEMENT CHARACTER}"
    assert queued == ["queued.good"]
    assert client.passed_over == {"UnicodeDecodeError": 1}


async def test_answer_to_a_cancelled_flush_harms_nobody(own_server: NatsServer) -> None:
    """A flush that was cancelled, or has timed out, is answered later; the connection goes on."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        client = await connection.client()
        own_server.pause()
        cancelled = asyncio.ensure_future(client.flush(timeout=60))
        late = asyncio.ensure_future(client.flush(timeout=1))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled, late])
        own_server.resume()
        await client.flush()

        assert not client._reading_task.done()  # type: ignore[union-attr]
        assert client.is_connected


async def test_reading_that_ended_on_an_error_is_a_lost_connection(own_server: NatsServer) -> None:
    """What nats-py cannot read, here an INFO that is no JSON, ends its task: it reconnects at once, and reads on."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        client, heard = await connection.client(), Heard()
        restored = asyncio.Event()
        connection.on_reconnect(restored.set)
        await client.subscribe_direct("after.>", heard.take, heard.errors.append)
        client.transport._connected().reader.feed_data(b"INFO {\r\n")  # type: ignore[attr-defined]
        await asyncio.wait_for(restored.wait(), 60)
        await client.publish("after.it")
        await eventually(lambda: heard)

        assert client.is_connected
