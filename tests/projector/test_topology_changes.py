"""The projector while its stream, its consumer or its server is lost and returns."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from msgspec import structs
from nats.js.api import AckPolicy, ConsumerConfig

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consumers import ensure_consumer
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.errors import ConsumerDrift, NatsUnavailable
from noetl_events.jetstream.message import delivery_of
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sinks.memory import MemorySink
from noetl_events.testing import eventually, make_events
from tests.projector.bench import QUICK, Bench, Blocking, ids

if TYPE_CHECKING:
    from noetl_events.testing.nats_server import NatsServer


async def test_deleted_consumer_is_created_again_from_the_start(bench: Bench) -> None:
    """A deleted consumer is created again, and events published in between are stored."""
    sink = MemorySink()
    await bench.publish(make_events(10))
    async with bench.projecting(sink):
        await eventually(lambda: len(sink.events) == 10)
        await (await jetstream(bench.connection)).delete_consumer(bench.stream.name, "projector")
        await bench.publish(make_events(10, start=11))
        await eventually(lambda: len(sink.events) == 20)

    assert ids(sink) == list(range(1, 21))


async def test_stream_created_again_is_read_from_its_start(bench: Bench) -> None:
    """A stream created again with the same sequences is read from its start: all 50 new events are stored."""
    sink = MemorySink()
    js = await jetstream(bench.connection)
    await bench.publish(make_events(60))
    async with bench.projecting(sink):
        await eventually(lambda: len(sink.events) == 60)
        await js.delete_stream(bench.stream.name)
        await ensure_stream(bench.connection, bench.stream)
        await bench.publish(make_events(50, start=101))
        await eventually(lambda: len(sink.events) == 110)

    assert ids(sink)[60:] == list(range(101, 151))


async def test_stream_created_again_buries_its_own(bench: Bench) -> None:
    """A message of a new stream is dead-lettered, even if its sequence was dead-lettered before."""
    js = await jetstream(bench.connection)
    await bench.publish([b"{first"])
    async with bench.projecting(MemorySink()) as projector:
        await eventually(lambda: projector.progress.dead_letters == 1)
        await js.delete_stream(bench.stream.name)
        await ensure_stream(bench.connection, bench.stream)
        await bench.publish([b"{second"])
        await eventually(lambda: projector.progress.dead_letters == 2)

    assert [letter.data for letter in await bench.dead_letters()] == [b"{first", b"{second"]


@pytest.mark.parametrize("in_flight", [pytest.param(10, id="all in hand"), pytest.param(4, id="some still buffered")])
async def test_stream_created_again_is_not_settled_by_what_came_before(bench: Bench, in_flight: int) -> None:
    """An ack for a message of a deleted stream acknowledges no message of the new one."""
    held, other, last = Blocking(), Blocking(), MemorySink()
    js = await jetstream(bench.connection)
    await bench.publish(make_events(10))
    async with bench.projecting(held, received=10, ack_wait=1.0) as projector:
        projector.batch_size = in_flight
        await held.stored.wait()
        await js.delete_stream(bench.stream.name)
        await ensure_stream(bench.connection, bench.stream)
        await bench.publish(make_events(10, start=101))
        dying = asyncio.create_task(bench.projector(other, ack_wait=1.0).run())
        await other.stored.wait()
        held.go.set()
        await eventually(lambda: len(held.events) == 10)
        dying.cancel()
        with suppress(asyncio.CancelledError):
            await dying
    async with bench.projecting(last, ack_wait=1.0):
        await eventually(lambda: {*ids(held), *ids(last)} >= {*range(1, 11), *range(101, 111)})


async def test_missing_stream_is_waited_for(bench: Bench) -> None:
    """A projector started before its stream waits for it."""
    js = await jetstream(bench.connection)
    await js.delete_stream(bench.stream.name)
    sink = MemorySink()
    async with bench.projecting(sink):
        await asyncio.sleep(QUICK.maximum * 3)
        await ensure_stream(bench.connection, bench.stream)
        await bench.publish(make_events(3))
        await eventually(lambda: len(sink.events) == 3)


async def test_consumer_that_differs_is_refused(bench: Bench) -> None:
    """A durable that leaves messages out ends the projector with the difference, and stays unchanged."""
    js = await jetstream(bench.connection)
    config = ConsumerConfig(durable_name="projector", ack_policy=AckPolicy.EXPLICIT, filter_subject="other")
    await js.add_consumer(bench.stream.name, config)
    with pytest.raises(
        ConsumerDrift, match=r"filter_subject: 'other' on the server, '' declared: the consumer leaves out"
    ):
        await bench.projector(MemorySink()).run()

    assert (await js.consumer_info(bench.stream.name, "projector")).config.filter_subject == "other"


async def test_waits_of_the_consumer_are_kept_to(bench: Bench) -> None:
    """A durable with another ack wait keeps its messages: a batch retried for longer is not delivered elsewhere."""
    held, other = Blocking(), MemorySink()
    await ensure_consumer(bench.connection, structs.replace(bench.consumer, ack_wait=3.0))
    await bench.publish(make_events(3))
    async with bench.projecting(held):
        await held.stored.wait()
        async with bench.projecting(other):
            await asyncio.sleep(5.0)
            held.go.set()
    assert ids(other) == []


async def test_what_is_taken_is_not_dropped(bench: Bench) -> None:
    """A batch that arrives while no further pull is possible is returned all the same."""
    await bench.publish(make_events(3))
    puller = bench.projector(MemorySink()).puller
    await puller.request()
    await eventually(lambda: len(puller.buffered) == 3)
    with patch.object(bench.connection, "client", side_effect=NatsUnavailable("closed for good")):
        taken = await puller.pull(2)

    assert [delivery_of(message).sequence for message in taken] == [1, 2]
    assert len(puller.buffered) == 1
    await puller.aclose()


async def test_server_killed_and_restarted(own_server: NatsServer) -> None:
    """The projector continues by itself after its server was killed and restarted."""
    sink = MemorySink()
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        streams = [StreamDeclaration(name=name, subjects=(f"{name}.>",)) for name in ("events", "dead")]
        for declared in streams:
            await ensure_stream(connection, declared)
        bench = Bench(connection, *streams)
        await bench.publish(make_events(10))
        async with bench.projecting(sink):
            await eventually(lambda: len(sink.events) == 10)
            own_server.kill()
            own_server.start()
            async with Connection(ConnectOptions(servers=own_server.url)) as another:
                await Bench(another, *streams).publish(make_events(10, start=11))
            await eventually(lambda: len(sink.events) == 20)

    assert ids(sink) == list(range(1, 21))
