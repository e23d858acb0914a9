"""Messages that a foreign consumer gave up on become dead letters."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from nats.js.api import ConsumerConfig
from structlog.testing import capture_logs

from consumers.dead_letters import DeadLetters
from consumers.projector.max_deliveries import MaxDeliveriesMonitor
from noetl_events import encode
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing import eventually, make_event
from tests.projector.bench import QUICK, Bench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from noetl_events.testing.nats_server import NatsServer


@asynccontextmanager
async def watching(bench: Bench) -> AsyncIterator[MaxDeliveriesMonitor]:
    """Run a monitor that is subscribed, and cancel it in the end."""
    letters = DeadLetters(bench.connection, prefix=bench.dead.name)
    watch = MaxDeliveriesMonitor(bench.connection, letters, stream=bench.stream.name, others=True, backoff=QUICK)
    running = asyncio.create_task(watch.run())
    try:
        await eventually(lambda: watch._advisories._client is not None)
        await (await bench.connection.client()).flush()
        yield watch
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def exhaust(bench: Bench, *, count: int = 1) -> None:
    """Let a consumer with max_deliver=2 give up on *count* messages: its advisory follows the third pull."""
    js = await jetstream(bench.connection)
    config = ConsumerConfig(durable_name="theirs", max_deliver=2, ack_wait=0.2)
    theirs = await js.pull_subscribe("", durable="theirs", stream=bench.stream.name, config=config)
    for _ in range(2):
        received = 0
        while received < count:
            received += len(await theirs.fetch(count - received, timeout=60))
    with suppress(TimeoutError):
        await theirs.fetch(1, timeout=1)
    await theirs.unsubscribe()


async def letters_of(bench: Bench, count: int) -> list[Any]:
    """Return the dead letters once there are *count*."""

    async def enough() -> bool:
        return len(await bench.dead_letters()) >= count

    await eventually(enough)
    return await bench.dead_letters()


async def test_exhausted_message_is_one_whole_dead_letter(bench: Bench) -> None:
    """Only one of two replicas dead-letters the message, with body, headers, consumer and number of deliveries."""
    body = encode(make_event(7))
    js = await jetstream(bench.connection)
    await js.publish(f"{bench.stream.name}.x", body, headers={"traceparent": "00-1-2-01"})
    async with watching(bench), watching(bench):
        await exhaust(bench)
        [letter] = await letters_of(bench, 1)

    assert letter.data == body
    assert letter.headers["Noetl-Kind"] == "exhausted"
    assert letter.headers["Noetl-Reason"] == "consumer theirs gave up after 2 deliveries"
    assert letter.headers["Noetl-Consumer"] == "theirs"
    assert (letter.headers["Noetl-Stream"], letter.headers["Noetl-Sequence"]) == (bench.stream.name, "1")
    assert letter.headers["Noetl-Header-traceparent"] == "00-1-2-01"
    assert len(await bench.dead_letters()) == 1


async def test_other_consumers_are_ignored_by_default(bench: Bench) -> None:
    """Without the setting a message that a foreign consumer gave up on becomes no dead letter."""
    letters, told = DeadLetters(bench.connection, prefix=bench.dead.name), asyncio.Event()
    stream = bench.stream.name
    watch = MaxDeliveriesMonitor(
        bench.connection, letters, stream=stream, own=["projector"], on_own=lambda _: told.set(), backoff=QUICK
    )
    running = asyncio.create_task(watch.run())
    await bench.publish([b"a"])
    await eventually(lambda: watch._advisories._client is not None)
    await exhaust(bench)
    client = await bench.connection.client()
    advisory = b'{"stream":"%b","consumer":"projector","stream_seq":1,"deliveries":2}' % stream.encode()
    await client.publish(f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.projector", advisory)
    async with asyncio.timeout(180):
        await told.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running

    assert await bench.dead_letters() == []


async def test_missing_dead_letter_stream_is_waited_for(bench: Bench) -> None:
    """An advisory is dropped only after its message is dead-lettered: the monitor retries until the stream exists."""
    js = await jetstream(bench.connection)
    await bench.publish([b"a", b"b"])
    await js.delete_stream(bench.dead.name)
    async with watching(bench) as watch:
        await exhaust(bench, count=2)
        await eventually(lambda: watch._advisories.waiting == 2)
        await ensure_stream(bench.connection, bench.dead)
        letters = await letters_of(bench, 2)

    assert [letter.data for letter in letters] == [b"a", b"b"]


async def test_missing_message_is_logged(bench: Bench) -> None:
    """A message that the stream no longer has is logged, and the monitor continues."""
    js = await jetstream(bench.connection)
    await bench.publish([b"a"])
    client = await bench.connection.client()
    advisory = b'{"stream":"%b","consumer":"theirs","stream_seq":9,"deliveries":2}' % bench.stream.name.encode()
    with capture_logs() as logs:
        async with watching(bench) as watch:
            for body in (b"no advisory", advisory):
                await client.publish(f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{bench.stream.name}.theirs", body)
            await eventually(
                lambda: {"max_deliveries.message_missing", "advisories.unreadable"} <= {line["event"] for line in logs}
            )
            await exhaust(bench)
            await letters_of(bench, 1)

    assert watch._advisories.waiting == 0
    assert (await js.stream_info(bench.dead.name)).state.messages == 1


@pytest.mark.slow
async def test_restart_of_the_server_ends_nothing(own_server: NatsServer) -> None:
    """After the server's restart the monitor subscribes again, on the same connection or a new one."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        events = StreamDeclaration(name="events", subjects=("events.>",))
        dead = StreamDeclaration(name="dead", subjects=("dead.>",))
        bench = Bench(connection, events, dead)
        for declared in (events, dead):
            await ensure_stream(connection, declared)
        await bench.publish([b"a"])
        reconnected = asyncio.Event()
        connection.on_reconnect(reconnected.set)
        async with watching(bench):
            own_server.kill()
            own_server.start()
            async with asyncio.timeout(180):
                await reconnected.wait()
            await exhaust(bench)
            [letter] = await letters_of(bench, 1)

    assert letter.data == b"a"


@pytest.mark.slow
async def test_client_that_was_closed_for_good_is_replaced(bench: Bench) -> None:
    """The monitor subscribes again on the connection's next client."""
    await bench.publish([b"a"])
    async with watching(bench) as watch:
        closed = await bench.connection.client()
        await closed.close()
        await eventually(lambda: watch._advisories._client not in (None, closed))
        await exhaust(bench)
        [letter] = await letters_of(bench, 1)

    assert letter.data == b"a"
