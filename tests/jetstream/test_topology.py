"""Streams and consumers as declared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consumers import ensure_consumer
from noetl_events.jetstream.declarations import ConsumerDeclaration, StreamDeclaration
from noetl_events.jetstream.errors import NatsUnavailable, PermissionDenied, StreamDrift, StreamMissing
from noetl_events.jetstream.message import delivery_of
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream, show_stream
from noetl_events.testing.nats_server import NatsServer

if TYPE_CHECKING:
    from pathlib import Path


async def test_stream_is_made_as_declared(connection: Connection, stream: StreamDeclaration) -> None:
    """The stream has file storage, limits retention, direct gets and batches; a second call changes nothing."""
    config = (await ensure_stream(connection, stream)).config

    assert (config.retention, config.storage, config.allow_direct, config.allow_batched) == (
        "limits",
        "file",
        True,
        True,
    )
    assert (config.max_age, config.duplicate_window) == (86_400, 120)


@pytest.mark.parametrize(
    "changes", [{"max_age": 60.0, "duplicate_window": 30.0}, {"max_bytes": 1024}], ids=["times", "size"]
)
async def test_stream_that_differs_is_refused(
    connection: Connection, stream: StreamDeclaration, changes: dict[str, Any]
) -> None:
    """Each difference is reported, and the stream stays unchanged."""
    with pytest.raises(StreamDrift) as drift:
        await ensure_stream(connection, structs.replace(stream, **changes))

    assert {deviation.field for deviation in drift.value.deviations} == {*changes}
    assert (await show_stream(connection, stream.name)).config.max_age == 86_400


async def test_consumer_is_made_as_declared(connection: Connection, stream: StreamDeclaration) -> None:
    """The consumer is durable, has explicit acks, starts at the first message and redelivers without limit."""
    declared = ConsumerDeclaration(name="reader", stream=stream.name, ack_wait=5.0)
    config = (await ensure_consumer(connection, declared)).config
    again = (await ensure_consumer(connection, declared)).config

    fields = ("durable_name", "deliver_policy", "ack_policy", "max_deliver", "ack_wait")
    assert [config[field] for field in fields] == ["reader", "all", "explicit", -1, 5_000_000_000]
    assert again == config


async def test_missing_stream_is_named_with_its_remedy(connection: Connection) -> None:
    """Each function that needs the stream raises with the command that makes it."""
    for attempt in (
        show_stream(connection, "nowhere"),
        ensure_consumer(connection, ConsumerDeclaration(name="reader", stream="nowhere")),
    ):
        with pytest.raises(StreamMissing, match="stream nowhere does not exist; run `noetl-events stream ensure`"):
            await attempt


async def test_server_without_jetstream_is_named(tmp_path: Path) -> None:
    """A server without JetStream is told apart from a missing stream."""
    with NatsServer(store_dir=tmp_path, jetstream=False) as server:
        async with Connection(ConnectOptions(servers=server.url)) as connection:
            with pytest.raises(NatsUnavailable, match="JetStream does not answer"):
                await show_stream(connection, "any")


async def test_denied_request_is_named(tmp_path: Path) -> None:
    """An account without the permission gets that reason, not a timeout."""
    config = (
        "authorization { users: [ { user: w, password: p, permissions: "
        '{ publish: ["nothing"], subscribe: ["_INBOX.>"] } } ] }'
    )
    with NatsServer(store_dir=tmp_path, config=config) as server:
        async with Connection(ConnectOptions(servers=server.url, user="w", password="p")) as connection:
            with pytest.raises(PermissionDenied, match=r"(?i)permissions violation.*stream\.info\.any"):
                await show_stream(connection, "any")


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param("$JS.ACK.events.reader.2.17.9.1795492281081941234.40", id="first form"),
        pytest.param("$JS.ACK.hub.AbCd.events.reader.2.17.9.1795492281081941234.40.x", id="second form"),
    ],
)
def test_place_of_a_delivery(reply: str) -> None:
    """Both forms of the ack subject give the stream sequence of a message."""

    class Message:
        pass

    message: Any = Message()
    message.reply = reply
    delivery = delivery_of(message)

    assert (delivery.stream, delivery.consumer, delivery.attempt) == ("events", "reader", 2)
    assert (delivery.sequence, delivery.stored_ms, delivery.pending) == (17, 1_795_492_281_081, 40)
