"""Fast-ingest batches: what their acknowledgements cover, and what is sent again when one ends otherwise."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.jetstream.scripted_stream import ScriptedStream, acks_every, ends_batches_with, error

if TYPE_CHECKING:
    from noetl_events.jetstream.publisher import Publisher


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param({"stream": "S", "seq": 2, "batch": "b", "count": 2}, id="short count"),
        pytest.param({"stream": "S", "seq": 2, "batch": "b", "count": 4}, id="excessive count"),
        pytest.param({"type": "gap", "last_seq": 2, "seq": 3}, id="gap"),
        pytest.param({"type": "err", "seq": 3, "error": {"code": 400, "err_code": 10071}}, id="error frame"),
        pytest.param(error(10208), id="batch unknown"),
        pytest.param(error(10211), id="too many batches"),
        pytest.param({"seq": "not a number"}, id="unreadable"),
    ],
)
async def test_anything_but_a_full_count_is_sent_again_plainly(
    publisher: Publisher, scripted: ScriptedStream, ending: dict[str, Any]
) -> None:
    """A batch that is not acknowledged to its last message is sent again whole, in order, by plain publish."""
    scripted.answer = ends_batches_with(ending)
    await publisher.publish(scripted.outgoing([1, 2, 3]))

    assert scripted.log == "1:fast 1/0 2:fast 2/1 3:fast 3/2 1:plain 2:plain 3:plain"
    assert publisher.mode == "fast"


async def test_acks_under_way_settle_what_they_cover(publisher: Publisher, scripted: ScriptedStream) -> None:
    """An ack in the middle of a batch means stored, up to its sequence: who waits for no more goes on."""
    scripted.answer = acks_every(250)
    calls = [asyncio.ensure_future(publisher.publish(scripted.outgoing(range(n, n + 100)))) for n in (1, 101, 201)]
    await asyncio.gather(*calls[:2])
    await scripted.wait_for(301)
    assert not calls[2].done()

    await scripted.send(scripted.received[-1], {"stream": "S", "seq": 300, "batch": "b", "count": 300})
    await calls[2]


async def test_only_what_no_ack_covers_is_sent_again(publisher: Publisher, scripted: ScriptedStream) -> None:
    """A batch given up half-way is sent again from the first message that no ack covered, in order."""
    scripted.answer = acks_every(250, then=error(10208))
    await publisher.publish(scripted.outgoing(range(1, 301)))

    again = [received.id for received in scripted.received if not received.is_fast]
    assert again == list(range(251, 301))
    assert publisher.counts.stored == 300


async def test_batch_goes_on_while_there_is_more(publisher: Publisher, scripted: ScriptedStream) -> None:
    """What comes while a batch is under way is appended to it."""
    scripted.answer = ends_batches_with({"stream": "S", "seq": 252, "batch": "b", "count": 252})
    first = asyncio.ensure_future(publisher.publish(scripted.outgoing(range(1, 251))))
    await scripted.wait_for(250)
    second = asyncio.ensure_future(publisher.publish(scripted.outgoing([251, 252])))
    await asyncio.sleep(0)
    await scripted.send(scripted.received[0], {"type": "ack", "seq": 250, "msgs": 250})
    await asyncio.gather(first, second)

    assert scripted.log.endswith("250:fast 250/1 251:fast 251/1 252:fast 252/2")


async def test_batch_without_more_ends_with_no_message(publisher: Publisher, scripted: ScriptedStream) -> None:
    """A batch that waited for an ack before its last message is ended by a message that is none."""
    scripted.answer = acks_every(250, then={"stream": "S", "seq": 300, "batch": "b", "count": 300})
    await publisher.publish(scripted.outgoing(range(1, 301)))

    assert scripted.log.endswith("300:fast 300/1 0:fast 301/3")
