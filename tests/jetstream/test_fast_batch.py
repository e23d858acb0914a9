"""Fast-ingest batches: the range of their acknowledgements, and the retries after other endings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.jetstream.scripted_stream import ScriptedStream, acks_every, ends_batches_with, error, stores

if TYPE_CHECKING:
    from noetl_events.jetstream.publish.publisher import Publisher


COMMIT, END, ASK = 2, 3, 4
SHORT = {"stream": "S", "seq": 2, "batch": "b", "count": 2}


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(SHORT, id="short count"),
        pytest.param({"stream": "S", "seq": 2, "batch": "b", "count": 4}, id="excessive count"),
        pytest.param({"stream": "S", "seq": 0, "batch": "b", "count": 3}, id="nothing but duplicates"),
        pytest.param([{"type": "gap", "last_seq": 2, "seq": 3}, SHORT], id="gap"),
        pytest.param([{"type": "err", "seq": 3, "error": {"code": 400, "err_code": 10071}}, SHORT], id="error frame"),
        pytest.param(error(10208), id="batch unknown"),
        pytest.param(error(10211), id="too many batches"),
    ],
)
async def test_anything_but_a_full_count_is_sent_again_plainly(
    publisher: Publisher, scripted: ScriptedStream, ending: dict[str, Any]
) -> None:
    """A batch not acknowledged to its last message is sent again completely, in order, in the end by plain publish."""
    scripted.answer = ends_batches_with(ending)
    await publisher.publish(scripted.outgoing([1, 2, 3]))

    assert scripted.log == "1:fast 1/0 2:fast 2/1 3:fast 3/2 1:plain 2:atomic 1 3:atomic 2 2:plain 3:plain"
    assert publisher.mode == "fast"


async def test_second_attempt_is_whole_or_nothing(publisher: Publisher, scripted: ScriptedStream) -> None:
    """A retry sends its first message alone: if that one was not stored, the rest is sent as an atomic batch."""
    scripted.answer = lambda received: (
        {"stream": "S", "seq": 3, "batch": "b", "count": 2}
        if received.atomic
        else error(10208)
        if received.is_fast
        else stores(received)
    )
    await publisher.publish(scripted.outgoing([1, 2, 3]))

    assert scripted.log == "1:fast 1/0 2:fast 2/1 3:fast 3/2 1:plain 2:atomic 1 3:atomic 2"
    assert publisher.counts.stored == 3


async def test_ack_under_way_proves_nothing(publisher: Publisher, scripted: ScriptedStream) -> None:
    """A flow ack within a batch covers unstored duplicates, so every message waits for the batch's end."""
    scripted.answer = acks_every(2, then={"stream": "S", "seq": 0, "batch": "b", "count": 3})
    await publisher.publish(scripted.outgoing([1, 2, 3]))

    assert scripted.log == "1:fast 1/0 2:fast 2/1 3:fast 3/2 1:plain 2:atomic 1 3:atomic 2 2:plain 3:plain"
    assert publisher.counts.stored == 3


async def test_batch_given_up_half_way_is_sent_again_whole(publisher: Publisher, scripted: ScriptedStream) -> None:
    """All messages of a batch without an outcome are unknown, whatever flow acks came before."""
    scripted.answer = acks_every(250, then=error(10208))
    await publisher.publish(scripted.outgoing(range(1, 301)))

    again = [received.id for received in scripted.received if not received.is_fast and not received.atomic]
    assert again == list(range(1, 301))
    assert publisher.counts.stored == 300


async def test_batch_goes_on_while_there_is_more(publisher: Publisher, scripted: ScriptedStream) -> None:
    """Messages that arrive while the first burst is written are appended to the batch."""
    await publisher.publish(scripted.outgoing(range(1, 301)))

    assert scripted.log.startswith("1:fast 1/0 2:fast 2/1")
    assert scripted.log.endswith("299:fast 299/1 300:fast 300/2")


async def test_long_batch_is_ended(
    publisher: Publisher, scripted: ScriptedStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch beyond its bound ends, and the next one starts once that is stored."""
    monkeypatch.setattr("noetl_events.jetstream.publish.batches.LONGEST", 2)
    monkeypatch.setattr("noetl_events.jetstream.publish.batches.BURST", 2)
    await publisher.publish(scripted.outgoing([1, 2, 3, 4]))

    assert scripted.log == "1:fast 1/0 2:fast 2/2 3:fast 1/0 4:fast 2/2"


async def test_batch_that_is_no_longer_known_is_sent_again_at_once(
    publisher: Publisher, scripted: ScriptedStream
) -> None:
    """A batch without an answer is asked for; a new leader does not know it, so the retry starts at once."""
    scripted.answer = lambda received: (
        (error(10208) if received.op == ASK else None) if received.is_fast else stores(received)
    )
    await publisher.publish(scripted.outgoing([1, 2, 3]))

    # A slow machine asks more than once before it reads the answer.
    assert re.match(r"1:fast 1/0 2:fast 2/1 3:fast 3/2( 0:fast 3/4)+ 1:plain", scripted.log)


async def test_question_about_a_batch_is_no_message(publisher: Publisher, scripted: ScriptedStream) -> None:
    """The message that ends or asks about a batch expects a stream that does not exist, so no server stores it."""
    scripted.answer = lambda received: (
        error(10208) if received.op == ASK else None if received.is_fast else stores(received)
    )
    await publisher.publish(scripted.outgoing([1, 2, 1]))

    assert {received.op: received.expected_stream for received in scripted.received if received.op > COMMIT} == {
        END: "-",
        ASK: "-",
    }
