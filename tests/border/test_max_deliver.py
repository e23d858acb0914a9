"""A projector's own consumer with a finite `max_deliver`: its exhausted messages are stored, not dead-lettered."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.declarations import DEAD_STREAM
from noetl_events.jetstream.streams import show_stream
from tests.border.lab import LOOK, Case, durable_of, until

if TYPE_CHECKING:
    from tests.border.lab import Lab

PATIENCE = 180.0
SECOND = 1_000_000_000


async def take_and_vanish(lab: Lab, stream: str, messages: int) -> None:
    """Take *messages* as a projector that dies with them in flight."""
    js = await jetstream(lab.connection)
    reader = await js.pull_subscribe_bind(durable_of(stream), stream)
    taken = 0
    while taken < messages:
        taken += len(await reader.fetch(messages - taken, timeout=60))
    await reader.unsubscribe()


async def letters(lab: Lab) -> int:
    """Return the number of dead letters."""
    return (await show_stream(lab.connection, DEAD_STREAM)).state.messages


async def exhaust(lab: Lab, case: Case, *, is_heard: bool) -> None:
    """Let a projector die with three events in flight, and its consumer give up, with or without a listener."""
    name = case.stream.name
    async with case.running():
        await case.publish(3)
        assert await until(lambda: case.is_stored, PATIENCE)
    original = await lab.consumer_config(name)
    edited = original | {"max_deliver": 1, "ack_wait": SECOND}
    assert not await lab.make_consumer(name, edited, action="update")
    await case.publish(3)
    await take_and_vanish(lab, name, 3)
    other = Case(lab, case.stream, durable="other")
    if is_heard:
        async with other.running():
            assert await until(lambda: other.is_ready, PATIENCE)
            await asyncio.sleep(1.5)
            await ask_once(lab, name)
            await asyncio.sleep(2 * LOOK)
    else:
        await asyncio.sleep(1.5)
        await ask_once(lab, name)
    assert not await lab.make_consumer(name, original, action="update")


async def ask_once(lab: Lab, stream: str) -> None:
    """Request a message: only then does the server give up on one."""
    js = await jetstream(lab.connection)
    reader = await js.pull_subscribe_bind(durable_of(stream), stream)
    with suppress(TimeoutError):
        await reader.fetch(1, timeout=0.5)
    await reader.unsubscribe()


async def test_given_up_while_no_projector_reads(lab: Lab) -> None:
    """The next projector finds messages that are neither acknowledged nor pending, and stores them."""
    case = Case(lab, await lab.stream())
    before = await letters(lab)
    await exhaust(lab, case, is_heard=False)
    async with case.running():
        assert await until(lambda: case.is_stored and case.is_ready, PATIENCE), case.reason

    assert await letters(lab) == before


async def test_given_up_is_left_to_its_own_projector(lab: Lab) -> None:
    """A projector with another durable gets the advisory, and dead-letters no message of the first one."""
    case = Case(lab, await lab.stream())
    before = await letters(lab)
    with capture_logs() as logged:
        await exhaust(lab, case, is_heard=True)
        async with case.running():
            assert await until(lambda: case.is_stored and case.is_ready, PATIENCE), case.reason

    assert await letters(lab) == before
    assert not [line for line in logged if line["event"].startswith("exhausted")]


async def test_given_up_between_two_looks(lab: Lab) -> None:
    """The projector that reads the consumer gets the advisory, and has the messages redelivered."""
    case = Case(lab, await lab.stream())
    name, before = case.stream.name, await letters(lab)
    async with case.running():
        await case.publish(3)
        assert await until(lambda: case.is_stored and case.is_ready, PATIENCE)
        with capture_logs() as logged:
            # The server sends this for a message that is stored, as after an edit and its undo within seconds.
            client = await lab.connection.client()
            subject = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{name}.{durable_of(name)}"
            body = b'{"stream":"%b","consumer":"%b","stream_seq":2,"deliveries":1}'
            await client.publish(subject, body % (name.encode(), durable_of(name).encode()))
            assert await until(lambda: any(line["event"] == "consumer.reset" for line in logged), PATIENCE)
        await case.publish(2)
        assert await until(lambda: case.is_stored and case.is_ready, PATIENCE), case.reason

    assert [line["start"] for line in logged if line["event"] == "consumer.reset"] == [2]
    assert await letters(lab) == before
