"""The publisher's messages and retries: against a scripted stream, over a real connection."""

from __future__ import annotations

import asyncio
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.publish.message import Outgoing
from noetl_events.jetstream.publish.publisher import Publisher
from noetl_events.sink import EventsRejected
from tests.jetstream.scripted_stream import Received, ScriptedStream, error, never, stores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from noetl_events.jetstream.connection import Connection

    Answer = Callable[["Received"], "dict[str, Any] | None"]

_subjects = count()


async def test_messages_in_the_meantime_form_the_next_batch(publisher: Publisher, scripted: ScriptedStream) -> None:
    """A lone message is sent at once and by itself; those that arrive while it is in flight form one batch."""
    scripted.answer = lambda received: None if received.id == 1 else stores(received)
    first = asyncio.ensure_future(publisher.publish(scripted.outgoing([1])))
    await scripted.wait_for(1)
    others = [asyncio.ensure_future(publisher.publish(scripted.outgoing([number]))) for number in (2, 3, 4)]
    await asyncio.sleep(0)
    await scripted.send(scripted.received[0], {"stream": "S", "seq": 1})
    await asyncio.gather(first, *others)

    assert scripted.log == "1:plain 2:fast 1/0 3:fast 2/1 4:fast 3/2"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(error(10205, "batch publish is disabled"), id="stream without allow_batched"),
        pytest.param({"stream": "S", "seq": 1}, id="server before 2.14"),
    ],
)
async def test_stream_without_batches_gets_windows(
    publisher: Publisher, scripted: ScriptedStream, answer: dict[str, Any]
) -> None:
    """A stream that proves to have no batches gets pipelined publishes from then on."""
    scripted.answer = lambda received: answer if received.is_fast else stores(received)
    await publisher.publish(scripted.outgoing([1, 2, 3]))
    await publisher.publish(scripted.outgoing([4, 5]))

    assert publisher.mode == "plain"
    assert scripted.log == "1:fast 1/0 2:fast 2/1 3:fast 3/2 1:plain 2:plain 3:plain 4:plain 5:plain"


async def test_refusal_without_batches_fails_its_own_call_only(
    publisher: Publisher, scripted: ScriptedStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that is refused when batches prove to be unsupported fails its own call; the others are stored."""
    monkeypatch.setattr("noetl_events.jetstream.publish.batches.MOST", 2)
    scripted.answer = lambda received: (
        error(10205) if received.is_fast else error(10077) if received.id == 1 else stores(received)
    )
    calls = [publisher.publish(scripted.outgoing(ids)) for ids in ([1, 2], [3, 4], [5])]
    failed, *stored = await asyncio.gather(*calls, return_exceptions=True)

    assert isinstance(failed, NatsUnavailable)
    assert stored == [None, None]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param({"stream": "S", "seq": 0, "duplicate": True}, id="duplicate of something not stored"),
        pytest.param(error(10158, "message ID is in process", 409), id="id in process"),
        pytest.param(error(10008, "system temporarily unavailable", 503), id="no leader"),
    ],
)
async def test_id_in_process_is_asked_for_again(
    publisher: Publisher, scripted: ScriptedStream, answer: dict[str, Any]
) -> None:
    """A message with an id in process on the server is sent until its outcome is known."""
    scripted.answer = lambda _: answer if scripted.sequence < 4 else {"stream": "S", "seq": 7, "duplicate": True}
    await publisher.publish(scripted.outgoing([1]))

    assert scripted.log == "1:plain 1:plain 1:plain 1:plain"


async def test_unknown_outcome_never_goes_by_batch_again(connection: Connection, scripted: ScriptedStream) -> None:
    """Events with an unknown outcome are sent by plain publish when the caller emits them again; others are not."""
    publisher = Publisher(connection, stream="S", timeout=3.0)
    scripted.answer = lambda received: error(10208) if received.is_fast else None
    with pytest.raises(NatsUnavailable, match="unknown whether stored"):
        await publisher.publish(scripted.outgoing([1, 2, 3]))
    scripted.received.clear()
    scripted.answer = stores
    await publisher.publish(scripted.outgoing([1, 2, 3, 4, 5]))

    assert scripted.log == "1:plain 2:atomic 1 3:atomic 2 2:plain 3:plain 4:fast 1/0 5:fast 2/2"
    await publisher.aclose()


async def test_repeated_id_waits_for_its_first_outcome(publisher: Publisher, scripted: ScriptedStream) -> None:
    """A repeated id is sent only after the outcome of its first message, so the batch ends before it."""
    await publisher.publish(scripted.outgoing([1, 2, 1, 3]))

    assert scripted.log == "1:fast 1/0 2:fast 2/1 0:fast 3/3 1:fast 1/0 3:fast 2/2"


async def test_second_attempt_keeps_the_order_of_a_key(publisher: Publisher, scripted: ScriptedStream) -> None:
    """A retry keeps the order within an ordering key; messages of other keys do not wait for it."""
    scripted.answer = lambda received: (
        error(10208) if received.is_fast else None if received.id == 1 else stores(received)
    )
    messages = scripted.outgoing([1, 2, 3], ordering_key=1) + scripted.outgoing([7, 8], ordering_key=2)
    call = asyncio.ensure_future(publisher.publish(messages))
    await scripted.wait_for(5 + 2)
    assert scripted.log.endswith("1:plain 7:plain")
    scripted.answer = stores
    await scripted.send(scripted.received[-2], {"stream": "S", "seq": 1})
    await call

    assert scripted.log.endswith("1:plain 7:plain 2:atomic 1 3:atomic 2 8:atomic 3 2:plain 8:plain 3:plain")


async def test_refusal_for_ever_names_the_message(publisher: Publisher, scripted: ScriptedStream) -> None:
    """A message above the stream's limit is rejected by its index, and its neighbours are stored."""
    scripted.answer = lambda received: (
        error(10208) if received.is_fast else error(10054, "too large") if received.id == 2 else stores(received)
    )
    with pytest.raises(EventsRejected) as rejection:
        await publisher.publish(scripted.outgoing([1, 2, 3]))

    assert rejection.value.reasons == {1: "too large (10054)"}
    assert scripted.log.endswith("1:plain 2:atomic 1 3:atomic 2 2:plain 3:plain")


async def test_refusal_of_the_stream_ends_the_call(publisher: Publisher, scripted: ScriptedStream) -> None:
    """The error of a full stream is raised at once in the server's words, and no later message of the call is sent."""
    scripted.answer = lambda received: (
        error(10208) if received.is_fast else error(10077, "maximum messages exceeded", 503)
    )
    with pytest.raises(NatsUnavailable, match="maximum messages exceeded"):
        await publisher.publish(scripted.outgoing([1, 2, 3]))

    assert scripted.log.endswith("3:fast 3/2 1:plain")


async def test_cancelled_call_disturbs_no_other(publisher: Publisher, scripted: ScriptedStream) -> None:
    """A call cancelled in the queue is not sent; one cancelled in flight does not affect its neighbours."""
    scripted.answer = never
    calls = [asyncio.ensure_future(publisher.publish(scripted.outgoing([number]))) for number in (1, 2, 3)]
    await scripted.wait_for(3)
    queued = [asyncio.ensure_future(publisher.publish(scripted.outgoing([number]))) for number in (4, 5)]
    await asyncio.sleep(0)
    calls[1].cancel()
    queued[0].cancel()
    scripted.answer = stores
    await scripted.send(scripted.received[2], {"stream": "S", "seq": 3, "batch": "b", "count": 3})
    await asyncio.gather(calls[0], calls[2], queued[1])

    assert scripted.log == "1:fast 1/0 2:fast 2/1 3:fast 3/2 5:plain"
    assert calls[1].cancelled()
    assert queued[0].cancelled()


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        pytest.param({"max_messages": 5}, 5, id="messages"),
        pytest.param({"max_bytes": 2 * Outgoing("s", b"1", b"{}", 0).size}, 2, id="bytes"),
        pytest.param({"max_bytes": 1}, 1, id="one is always taken"),
    ],
)
async def test_publish_waits_for_space(
    connection: Connection, scripted: ScriptedStream, bounds: dict[str, Any], expected: int
) -> None:
    """A full queue makes the caller wait; the first outcome lets the next message in."""
    publisher = Publisher(connection, stream="S", **bounds)
    taken: list[bytes] = []
    scripted.answer = never

    def messages() -> Iterable[Outgoing]:
        for message in scripted.outgoing(range(1, 10)):
            yield message
            taken.append(message.message_id)

    call = asyncio.ensure_future(publisher.publish(messages()))
    await scripted.wait_for(expected)
    assert expected == len(scripted.received)
    assert expected == len(taken)
    scripted.answer = stores
    for received in tuple(scripted.received):
        answer = {"stream": "S", "seq": 3, "batch": "b" if received.is_fast else "", "count": expected}
        await scripted.send(received, answer)
    await call

    assert len({received.id for received in scripted.received}) == 9
    await publisher.aclose()


async def test_call_that_finds_the_queue_full_is_not_sent(connection: Connection, scripted: ScriptedStream) -> None:
    """A call that finds the queue full until its timeout says that none of its messages was sent."""
    publisher = Publisher(connection, stream="S", timeout=1.0, max_messages=1)
    await publisher.publish(scripted.outgoing([9]))
    scripted.answer = never
    first = asyncio.ensure_future(publisher.publish(scripted.outgoing([1])))
    await asyncio.sleep(0)
    with pytest.raises(NatsUnavailable, match="not sent"):
        await publisher.publish(scripted.outgoing([2]))
    with pytest.raises(NatsUnavailable, match="unknown whether stored"):
        await first

    assert {9, 1} == {received.id for received in scripted.received}
    await publisher.aclose()


async def test_call_that_waits_for_space_may_be_stored_in_part(
    connection: Connection, scripted: ScriptedStream
) -> None:
    """A call that waits for space for its second message, while its first is in flight, does not say "not sent"."""
    publisher = Publisher(connection, stream="S", timeout=1.0, max_messages=1)
    await publisher.publish(scripted.outgoing([9]))
    scripted.answer = never
    with pytest.raises(NatsUnavailable, match="unknown whether stored"):
        await publisher.publish(scripted.outgoing([1, 2]))

    assert {9, 1} == {received.id for received in scripted.received}
    await publisher.aclose()


async def test_call_with_an_expired_message_may_be_stored_in_part(
    connection: Connection, scripted: ScriptedStream
) -> None:
    """A call does not say "not sent" if its last message expires unsent, because the others may be stored."""
    publisher = Publisher(connection, stream="S", timeout=3.0)
    await publisher.publish(scripted.outgoing([9]))

    def messages() -> Iterable[Outgoing]:
        # The publisher sends the first 125 messages before it asks for the next one, which comes late.
        yield from scripted.outgoing(range(1, 126))
        time.sleep(3.1)
        yield from scripted.outgoing([126])

    with pytest.raises(NatsUnavailable, match="unknown whether stored"):
        await publisher.publish(messages())
    await scripted.wait_for(126)
    await publisher.aclose()

    assert set(range(1, 126)) == {received.id for received in scripted.received if received.id}


async def test_close_waits_for_accepted_calls(connection: Connection, scripted: ScriptedStream) -> None:
    """Closing waits for the outcome of every accepted message, and refuses new ones."""
    publisher = Publisher(connection, stream="S")
    scripted.answer = never
    call = asyncio.ensure_future(publisher.publish(scripted.outgoing([1])))
    await scripted.wait_for(1)
    closing = asyncio.ensure_future(publisher.aclose())
    await asyncio.sleep(0)
    assert not closing.done()
    with pytest.raises(RuntimeError, match="closed"):
        await publisher.publish(scripted.outgoing([2]))
    await scripted.send(scripted.received[0], {"stream": "S", "seq": 1})
    await closing

    assert call.done()


async def test_bug_reaches_every_caller(connection: Connection, scripted: ScriptedStream) -> None:
    """An unexpected error ends every waiting call."""
    publisher = Publisher(connection, stream="S")
    await connection.aclose()
    calls = [asyncio.ensure_future(publisher.publish(scripted.outgoing([number]))) for number in (1, 2)]
    results = await asyncio.gather(*calls, return_exceptions=True)

    assert [str(result) for result in results] == ["Connection is closed"] * 2
    await publisher.aclose()
