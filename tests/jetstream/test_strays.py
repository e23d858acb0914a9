"""Stray messages of other clients in an inbox are dropped, and the server's own messages are read."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pytest
import structlog

from consumers.backfill import emit_patiently
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consume.history import History, Span
from noetl_events.jetstream.consume.puller import Puller
from noetl_events.jetstream.declarations import ConsumerDeclaration
from noetl_events.jetstream.message import Arrival, ack_subjects, delivery_of, status_of
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from noetl_events.jetstream.client import DirectClient
    from noetl_events.jetstream.declarations import StreamDeclaration
    from noetl_events.jetstream.message import Message

_STRAYS: Final = 2_000
_EVENTS: Final = 300

_TOKENS: Final = (b"", b"x", b"-1", b"0", b"1", b"2", b"00", b"1.2", b"9" * 30, b"\xff", "٣".encode(), b"next", b"$FI")
_REPLIES: Final = (
    *(b"", b"garbage", b"$JS.ACK", b"$JS.ACK.a.b.c.d.e.f.g", b"$JS.ACK.s.c.1.2.3.4.x", b"\xfe", b"a" * 2_000),
    # These are valid except for a number, or for the consumer.
    *(b"$JS.ACK.%s.mine.1.2.3.4", b"$JS.ACK.%s.mine.-1.2.3.4.5", b"$JS.ACK.%s.other.1.1.1.1.1"),
)
_HEADS: Final = (
    *(b"", b"NATS/1.0\r\n\r\n", b"NATS/1.0\r\nStatus: 408\r\n\r\n", b"NATS/1.0 abc\r\n\r\n", b"NATS/1.0 408\r\n\r\n"),
    *(
        b"NATS/1.0 40\xff\r\n\r\n",
        b"NATS/1.0\r\nStatus: \r\nDescription: Batch Completed\r\n\r\n",
        b"NATS/1.0\r\n:\r\n\r\n",
    ),
    *(b"NATS/1.0 100 Idle Heartbeat\r\n\r\n", b"NATS/1.0 503\r\n\r\n", b"NATS/1.0\r\nNats-Pin-Id: x\r\n\r\n"),
    b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: many\r\n\r\n",
)
_BODIES: Final = (
    *(b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"seq":-1}', b'{"seq":"1"}', b'{"type":"gap"}', b"{" * 500),
    *(b'{"error":1}', b'{"error":{"code":"x"}}', b'{"error":{"code":503,"err_code":-1}}', b"1" * 5_000),
)


async def throw(client: DirectClient, inboxes: Callable[[], list[str]], stream: str, count: int) -> None:
    """Send *count* messages drawn from all of these to the inboxes that are open at that time."""
    draw = random.Random(7)
    for _ in range(count):
        for inbox in inboxes():
            reply = draw.choice(_REPLIES).replace(b"%s", stream.encode())
            head, body = draw.choice(_HEADS), draw.choice(_BODIES)
            subject = b"%b.%b" % (inbox.encode(), draw.choice(_TOKENS) or b"x")
            verb = b"HPUB" if head else b"PUB"
            sizes = b"%d %d" % (len(head), len(head) + len(body)) if head else b"%d" % len(body)
            parts = [verb, subject, *([reply] if reply else []), sizes]
            await client.write(b" ".join(parts) + b"\r\n" + head + body + b"\r\n")
        await asyncio.sleep(0)
    await client.flush()


@pytest.fixture
async def stranger(nats_url: str) -> AsyncIterator[DirectClient]:
    """Return a client as of another process."""
    async with Connection(ConnectOptions(servers=nats_url)) as opened:
        yield await opened.client()


def _declared(stream: StreamDeclaration) -> ConsumerDeclaration:
    return ConsumerDeclaration(stream=stream.name, name="mine", ack_wait=2.0)


async def test_puller_reads_on(connection: Connection, stream: StreamDeclaration, stranger: DirectClient) -> None:
    """A puller receives every event among two thousand stray messages of every form, with a quiet log."""
    puller = Puller(connection, _declared(stream))
    sink = NatsSink(connection, subject=f"{stream.name}.{{event_type}}")
    taken: set[int] = set()

    async def read() -> None:
        while len(taken) < _EVENTS:
            batch = await puller.pull(100)
            await puller.ack(batch)
            taken.update(delivery_of(message).sequence for message in batch)

    with structlog.testing.capture_logs() as logged:
        reading = asyncio.ensure_future(read())
        await eventually(lambda: puller._inbox._name)
        throwing = asyncio.ensure_future(throw(stranger, lambda: [puller._inbox._name], stream.name, _STRAYS))
        for event in make_events(_EVENTS):
            await sink.emit(event)
        async with asyncio.timeout(180):
            await asyncio.gather(reading, throwing)
    await puller.stop()
    await puller.aclose()
    await sink.aclose()

    client = await connection.client()
    assert taken == set(range(1, _EVENTS + 1))
    assert client.dropped["stray"] > _STRAYS / 4
    assert set(client.dropped) == {"stray"}
    # The server denies the other client an ack subject as a reply, three times; and a status with the number of a
    # request in flight cannot be told from one of the server's.
    assert len(logged) < 20


async def test_publisher_stores_on(connection: Connection, stream: StreamDeclaration, stranger: DirectClient) -> None:
    """With retried emits every event is stored, despite stray messages to the publisher's inbox and open exchanges."""
    sink = NatsSink(connection, subject=f"{stream.name}.{{event_type}}", timeout=20.0)
    inbox = sink._publisher._sender._inbox
    await sink.emit(make_events(1, start=10_000)[0])

    def inboxes() -> list[str]:
        return [inbox._prefix, *(exchange.reply_to for exchange in inbox._exchanges.values())]

    throwing = asyncio.ensure_future(throw(stranger, inboxes, stream.name, _STRAYS // 4))
    for start in range(0, _EVENTS, 50):
        assert not await emit_patiently(make_events(50, start=start + 1), sink, patience=30.0)
    await throwing
    await sink.aclose()
    info = await (await connection.jetstream()).stream_info(stream.name)

    assert info.state.messages == _EVENTS + 1


async def test_history_reads_on(connection: Connection, stream: StreamDeclaration, stranger: DirectClient) -> None:
    """A history reader gets each message once and in order, despite stray messages to its inbox."""
    sink = NatsSink(connection, subject=f"{stream.name}.{{event_type}}")
    await sink.emit_batch(make_events(_EVENTS))
    await sink.aclose()
    history = History(connection, Span(stream=stream.name), max_messages=10)

    def inboxes() -> list[str]:
        consumer = history._consumer
        return [consumer._inbox._name] if consumer and consumer._inbox else []

    throwing = asyncio.ensure_future(throw(stranger, inboxes, stream.name, _STRAYS // 4))
    read: list[int] = []
    async with history:
        while batch := await history.read(20):
            read += [delivery_of(message).sequence for message in batch]
            await asyncio.sleep(0.01)
    await throwing

    assert read == list(range(1, _EVENTS + 1))


async def test_bug_of_a_puller_restarts_it(
    connection: Connection, stream: StreamDeclaration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message over which the puller's code raises is not lost: the pull restarts, and it is redelivered."""
    puller = Puller(connection, _declared(stream))
    put, failed = puller._buffer.put, list[int]()

    def fail_once(message: Message) -> None:
        if delivery_of(message).sequence == 2 and not failed:
            failed.append(2)
            raise LookupError("planted")
        put(message)

    monkeypatch.setattr(puller._buffer, "put", fail_once)
    monkeypatch.setattr("noetl_events.jetstream.consume.receiver._RESTART_INTERVAL", 0.0)
    sink = NatsSink(connection, subject=f"{stream.name}.{{event_type}}")
    taken: list[int] = []
    with structlog.testing.capture_logs() as logged:
        await puller.request()
        await sink.emit_batch(make_events(3))
        async with asyncio.timeout(180):
            while len(taken) < 3:
                batch = await puller.pull(10)
                await puller.ack(batch)
                taken += [delivery_of(message).sequence for message in batch]
    await puller.aclose()
    await sink.aclose()

    assert sorted(taken) == [1, 2, 3]
    assert [line["event"] for line in logged] == ["client.message_dropped", "puller.restarting"]
    assert "planted" in logged[1]["reason"]


@pytest.mark.parametrize(
    ("reply", "is_one"),
    [
        pytest.param("$JS.ACK.s.c.1.2.3.4.5", True, id="first form"),
        pytest.param("$JS.ACK.hub.ACCHASH.s.c.1.2.3.4.5", True, id="with domain and account"),
        pytest.param("$JS.ACK._.ACCHASH.s.c.1.2.3.4.5.token", True, id="with a token at the end"),
        pytest.param("$JS.ACK.s.other.1.2.3.4.5", False, id="another consumer"),
        pytest.param("$JS.ACK.s.c.1.2.3.4", False, id="too short"),
        pytest.param("$JS.ACK.s.c.1.2.3.4.x", False, id="no number"),
        pytest.param("$JS.ACK.s.c.1.2.3.4.٣", False, id="no number of ours"),
        pytest.param("$JS.ACK.s.c.1.2.3.4." + "9" * 30, False, id="a number of thirty digits"),
        pytest.param("garbage", False, id="garbage"),
    ],
)
def test_ack_subjects(reply: str, is_one: bool) -> None:  # noqa: FBT001  (an expectation)
    """An ack subject of the consumer is told from every other reply, and parsed."""
    assert bool(ack_subjects("s", "c").fullmatch(reply)) is is_one
    with suppress(ValueError):
        assert (delivery_of(Arrival("x", reply, b"", None)).consumer == "c") or not is_one


@pytest.mark.parametrize(
    ("head", "data", "expected"),
    [
        pytest.param(b"NATS/1.0 408 Request Timeout\r\n\r\n", b"", ("408", "Request Timeout"), id="status"),
        pytest.param(b"NATS/1.0 503\r\n\r\n", b"", ("503", ""), id="without a description"),
        pytest.param(b"NATS/1.0 abc\r\n\r\n", b"", ("", ""), id="no number"),
        pytest.param(b"NATS/1.0 408 x\r\n\r\n", b"body", ("", ""), id="with a body"),
        pytest.param(None, b"", ("", ""), id="without headers"),
    ],
)
def test_status(head: bytes | None, data: bytes, expected: tuple[str, str]) -> None:
    """A status has three digits and no body; any other message is none."""
    assert status_of(Arrival("x", "", data, head)) == expected
