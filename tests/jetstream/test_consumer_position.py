"""The position at which a durable consumer resumes: the reset target, which no failure loses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.consume.position import ConsumerPosition, StreamEnd
from noetl_events.jetstream.consumers import ensure_consumer, reset_consumer, show_consumer
from noetl_events.jetstream.declarations import ConsumerDeclaration
from noetl_events.jetstream.message import Arrival
from noetl_events.testing import eventually

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration

MESSAGES = 10


@pytest.fixture
async def declared(connection: Connection, stream: StreamDeclaration) -> ConsumerDeclaration:
    """Return a consumer that has delivered ten messages, all acknowledged."""
    consumer = ConsumerDeclaration(name="c", stream=stream.name)
    await ensure_consumer(connection, consumer)
    js = await jetstream(connection)
    for _ in range(MESSAGES):
        await js.publish(f"{stream.name}.x", b"{}")
    reader = await js.pull_subscribe_bind("c", stream.name)
    for message in await reader.fetch(MESSAGES, timeout=180):
        await message.ack_sync()
    await reader.unsubscribe()

    async def is_acked() -> bool:
        return (await show_consumer(connection, consumer)).ack_floor.stream_seq == MESSAGES

    await eventually(is_acked)
    return consumer


async def start_reading(position: ConsumerPosition, connection: Connection, declared: ConsumerDeclaration) -> None:
    """Resume the consumer at its present position."""
    await position.start(await show_consumer(connection, declared), is_pinned=False)


async def next_of(connection: Connection, declared: ConsumerDeclaration) -> int:
    """Return the sequence of the consumer's next delivery."""
    return (await show_consumer(connection, declared)).delivered.stream_seq + 1


@pytest.fixture
async def position(connection: Connection, declared: ConsumerDeclaration) -> ConsumerPosition:
    """Return the position of the consumer, initialised."""
    made = ConsumerPosition(connection, declared)
    await start_reading(made, connection, declared)
    return made


async def test_goes_on_where_it_is(
    connection: Connection, declared: ConsumerDeclaration, position: ConsumerPosition
) -> None:
    """A consumer in order is not reset."""
    await start_reading(position, connection, declared)

    assert await next_of(connection, declared) == MESSAGES + 1


async def test_removed_messages_at_the_end_are_not_missing(
    connection: Connection, declared: ConsumerDeclaration, position: ConsumerPosition
) -> None:
    """Messages that were removed from the end of the stream cause one check, and no reset."""
    js = await jetstream(connection)
    for _ in range(2):
        await js.delete_msg(declared.stream, (await js.publish(f"{declared.stream}.x", b"{}")).seq)
    info = await show_consumer(connection, declared)
    assert not position.stops_short(info, MESSAGES + 2)
    assert position.stops_short(info, MESSAGES + 2)
    await position.start(info, is_pinned=False, end=StreamEnd(MESSAGES + 2))

    assert await next_of(connection, declared) == MESSAGES + 1
    assert not position.stops_short(info, MESSAGES + 2)


@pytest.mark.parametrize("starts", [(3, 7), (7, 3), (3, 3)])
async def test_earliest_start_counts(
    connection: Connection, declared: ConsumerDeclaration, position: ConsumerPosition, starts: tuple[int, ...]
) -> None:
    """Of several restart positions the first one is the target of a single reset."""
    for start in starts:
        position.restart_at(start)
    await start_reading(position, connection, declared)
    assert await next_of(connection, declared) == 3
    await reset_consumer(connection, declared, start=9)
    await start_reading(position, connection, declared)

    assert await next_of(connection, declared) == 9


async def test_messages_without_their_bodies_come_again(
    connection: Connection, declared: ConsumerDeclaration, position: ConsumerPosition
) -> None:
    """The consumer is reset to the first message that came as headers only; one without body is delivered so again."""
    lacking = [
        Arrival(
            "e.x", f"$JS.ACK.S.c.1.{sequence}.{sequence}.1764460800000000000.0", b"", b"NATS/1.0\r\nNats-Msg-Size: 2"
        )
        for sequence in (4, 6)
    ]
    assert all(position.lacks_body(message) for message in lacking)
    await start_reading(position, connection, declared)

    assert await next_of(connection, declared) == 4
    assert not any(position.lacks_body(message) for message in lacking)


async def test_another_puller_has_set_it_back_further(
    connection: Connection, declared: ConsumerDeclaration, position: ConsumerPosition
) -> None:
    """A reset to a later position does not skip messages that another puller waits for."""
    await reset_consumer(connection, declared, start=2)
    position.restart_at(8)
    await start_reading(position, connection, declared)

    assert await next_of(connection, declared) == 2


async def test_cancelled_while_it_is_reset(
    connection: Connection, declared: ConsumerDeclaration, position: ConsumerPosition
) -> None:
    """A restart position is kept until the server has confirmed the reset."""
    position.restart_at(5)
    info = await show_consumer(connection, declared)
    setting_back = asyncio.ensure_future(position.start(info, is_pinned=False))
    await asyncio.sleep(0)
    setting_back.cancel()
    await asyncio.wait([setting_back])
    assert setting_back.cancelled()
    await start_reading(position, connection, declared)

    assert await next_of(connection, declared) == 5


async def test_stream_that_is_what_it_was_up_to_a_place(
    connection: Connection, declared: ConsumerDeclaration, position: ConsumerPosition
) -> None:
    """Acks behind that position belong to another stream, so a consumer found edited is reset behind it."""
    position.record_replaced(6)
    position.record_replaced(4)
    position.record_replaced(5)
    await position.rewind()

    assert await next_of(connection, declared) == 5


async def test_found_edited_again_and_again(
    connection: Connection, declared: ConsumerDeclaration, position: ConsumerPosition
) -> None:
    """A consumer that is found edited at each check is reset once, and not again until it is in order."""
    await position.rewind()
    js = await jetstream(connection)
    await js.publish(f"{declared.stream}.x", b"{}")
    reader = await js.pull_subscribe_bind("c", declared.stream)
    await reader.fetch(1, timeout=180)
    await position.rewind()
    assert (await show_consumer(connection, declared)).num_ack_pending == 1
    await start_reading(position, connection, declared)
    await position.rewind()

    assert await next_of(connection, declared) == MESSAGES + 1
    await reader.unsubscribe()
