"""Messages straight from the parser equal those of nats-py's own path, and the private names of nats-py this uses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import structlog
from nats.errors import ConnectionReconnectingError

from noetl_events.jetstream.client import _METHODS, DirectClient, missing_hooks
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.message import Arrival
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.publish.message import Call, Outgoing, command, command_with, publish_all, publish_to_all
from noetl_events.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from noetl_events.jetstream.message import Message
    from noetl_events.testing.nats_server import NatsServer


class Heard(list["Message"]):
    """The messages of a subscription, and the exceptions over them."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []

    def take(self, message: Message) -> bool:
        """Record *message*, whatever its form."""
        self.append(message)
        return True


def told(message: Message) -> tuple[str, str, bytes, dict[str, str] | None]:
    """Return all fields of a message."""
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
    """Subject, reply, data and headers equal those of nats-py's own subscription."""
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
    """A status of the server has a code and a description, in the words of nats-py."""
    client = await connection.client()
    inbox = client.new_inbox()
    heard = Heard()
    await client.subscribe_direct(f"{inbox}.*", heard.take, heard.errors.append)
    await client.publish("$JS.API.CONSUMER.MSG.NEXT.no_stream.none", b"", reply=f"{inbox}.1")
    await client.publish("nobody.listens", b"", reply=f"{inbox}.2")
    await eventually(lambda: heard)

    assert (heard[-1].headers or {})["Status"] == "503"


async def test_after_unsubscribing_nothing_is_handed_over(connection: Connection) -> None:
    """An ended subscription delivers nothing more, and is removed at the next message."""
    client = await connection.client()
    inbox = client.new_inbox()
    heard = Heard()
    subscription = await client.subscribe_direct(f"{inbox}.a", heard.take, heard.errors.append)
    await subscription.unsubscribe()
    await client.publish(f"{inbox}.a", b"")
    await client.flush()
    await client.subscribe_direct(f"{inbox}.b", heard.take, heard.errors.append)

    assert not heard
    assert len(client._subscribers) == 1


async def test_flush_covers_what_was_written_before_it(connection: Connection) -> None:
    """A message published right before a flush has been to the server and back when the flush ends."""
    client = await connection.client()
    inbox, heard = client.new_inbox(), Heard()
    await client.subscribe_direct(inbox, heard.take, heard.errors.append)
    # The message is large: a ping ahead of it would be answered before the server has read all of it.
    for count in range(1, 21):
        await client.publish(inbox, bytes(900_000))
        await client.flush()
        assert len(heard) == count


async def test_reconnection_keeps_the_subscription(own_server: NatsServer) -> None:
    """After a reconnection messages are delivered as before."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        client = await connection.client()
        inbox = client.new_inbox()
        heard = Heard()
        await client.subscribe_direct(f"{inbox}.*", heard.take, heard.errors.append)
        restored = asyncio.Event()
        connection.on_reconnect(restored.set)
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.start)
        await asyncio.wait_for(restored.wait(), 180)
        await client.publish(f"{inbox}.1", b"again")
        await eventually(lambda: heard)

        assert isinstance(client, DirectClient)
        assert heard[0].data == b"again"


async def test_request_ends_with_the_connection(own_server: NatsServer) -> None:
    """A caller that waits for an answer gets an error when the connection is lost, not after its timeout."""
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

        assert (await client.request("$JS.API.INFO", timeout=60)).data


def test_this_nats_py_has_every_private_name() -> None:
    """The pinned nats-py has every private name, so the fast way is used."""
    assert missing_hooks() == frozenset()


@pytest.fixture
def other_nats_py(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give every private method of nats-py unknown parameters."""
    others = {
        use: {name: (*parameters, "more") for name, parameters in methods.items()} for use, methods in _METHODS.items()
    }
    monkeypatch.setattr("noetl_events.jetstream.client._METHODS", others)
    missing_hooks.cache_clear()
    yield
    missing_hooks.cache_clear()


@pytest.mark.usefixtures("other_nats_py")
async def test_other_private_names_are_done_without(nats_url: str) -> None:
    """With private methods in nats-py that differ, messages are sent and delivered through the public ones."""
    with structlog.testing.capture_logs() as logged:
        async with Connection(ConnectOptions(servers=nats_url)) as connection:
            client, heard = await connection.client(), Heard()
            await client.subscribe_direct("slow.>", heard.take, heard.errors.append)
            messages = [Outgoing("slow.a", b"1", b"one\r\n", 1), Outgoing("slow.b", b"2", b"", 1)]
            call = Call()
            for message in messages:
                call.add(message)
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
    assert warning["missing"] == sorted(_METHODS)


@pytest.mark.usefixtures("other_nats_py")
async def test_tls_is_not_entrusted_to_another_nats_py(nats_url: str) -> None:
    """Without the client's own transport no connection with TLS is made, and the error names the remedy."""
    async with Connection(ConnectOptions(servers=nats_url.replace("nats:", "tls:"))) as connection:
        with pytest.raises(ValueError, match="cannot enforce TLS, which is required; install nats-py"):
            await connection.client()


async def test_stray_message_is_counted_and_logged_once(connection: Connection) -> None:
    """A message that a callback does not expect is counted; the first one is logged, and reading continues."""
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
        await eventually(lambda: client.dropped["stray"] == 3)

    assert wanted == [b"wanted"]
    assert [(line["event"], line["kind"], line["subject"]) for line in logged] == [
        ("client.message_dropped", "stray", "strays.a")
    ]


async def test_error_of_a_callback_does_not_end_the_connection(connection: Connection) -> None:
    """An exception of a callback is counted, logged once for each kind and place, and given to the owner."""
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
    assert client.dropped == {"LookupError": 2}
    assert [line["event"] for line in logged] == ["client.message_dropped"]
    assert logged[0]["where"].startswith("test_direct_client.py:")


async def test_subject_that_is_no_text_is_read(connection: Connection) -> None:
    """NATS allows any bytes as a subject: such a message is delivered, also to nats-py's own subscription."""
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
    assert client.dropped == {"UnicodeDecodeError": 1}


async def test_answer_to_a_cancelled_flush_harms_nobody(own_server: NatsServer) -> None:
    """The late answer to a flush that was cancelled or timed out does not disturb the connection."""
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
    """An INFO that is no JSON ends nats-py's reading task: the client reconnects at once and reads on."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        client, heard = await connection.client(), Heard()
        restored = asyncio.Event()
        connection.on_reconnect(restored.set)
        await client.subscribe_direct("after.>", heard.take, heard.errors.append)
        client.transport._connected().reader.feed_data(b"INFO {\r\n")  # type: ignore[attr-defined]
        await asyncio.wait_for(restored.wait(), 180)
        await client.publish("after.it")
        await eventually(lambda: heard)

        assert client.is_connected
